"""Several processes, which accelerate starts and connects: how many there are, and whether this is the first."""

import os
import re
import sys

import psutil


def count() -> int:
    """How many processes share this command's work; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process is the one that prints and writes for all."""
    return int(os.environ.get("RANK", 0)) == 0


def start_missing() -> None:
    """Start the CPU processes that `accelerate launch --num_processes N` was asked for and did not start.

    Without a GPU or MPI, accelerate silently starts one process (with --multi_gpu it starts several, on a CPU too).
    This process then becomes the launcher of all N, on this machine alone.
    """
    asked = 1 if "WORLD_SIZE" in os.environ else _asked_for()
    if asked > 1:
        print(f"accelerate launched one process where {asked} were asked for; starting {asked} on the CPU", flush=True)
        launcher = ["torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={asked}"]
        os.execv(sys.executable, [sys.executable, "-m", *launcher, *sys.argv])


def _asked_for() -> int:
    """--num_processes of the `accelerate launch` that is this process's parent; 1 where there is none."""
    try:
        words = " ".join(psutil.Process().parent().cmdline())
    except (psutil.Error, AttributeError):
        return 1
    asked = re.search(r"\baccelerate\b.* --num[_-]processes[= ](\d+)", words)
    return int(asked[1]) if asked else 1
