"""How the benchmarks take time: the fastest of several runs; two ways in turns, so that both meet the same machine."""

import time
from collections.abc import Callable, Iterable

import numpy as np


def seconds_of(function: Callable) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def fastest(function: Callable, times: int) -> float:
    """Seconds of the fastest of several runs, which is the one that the rest of the machine disturbed least."""
    return min(seconds_of(function) for _ in range(times))


def in_turns(first: Callable, second: Callable, turns: int) -> np.ndarray:
    """Seconds (turns, 2) of two functions that take turns, each going first every other time."""
    taken = []
    for turn in range(turns):
        pair = (first, second) if turn % 2 else (second, first)
        each = {function: seconds_of(function) for function in pair}
        taken.append((each[first], each[second]))
    return np.array(taken)


def drain(batches: Iterable) -> None:
    """Ask for every batch and do nothing with it."""
    for _ in batches:
        pass
