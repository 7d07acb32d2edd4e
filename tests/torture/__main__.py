"""`make torture`: kill -9 at random moments, a hundred times, and see that the work ends as if nothing had happened.

Phantoms, caching, training and the six notebooks, at toy size, each as a process of its own, forked from this one that
has loaded the libraries: so the kills meet the work. Each is first done once in
peace. Then it is started, killed, started again, until its share of kills is spent, and the result must be the same:
data byte for byte, weights bit for bit. Only the process itself is killed; its workers and kernels are left to notice,
as when the memory of a machine runs out. Bounded: `--minutes` (15) and `--kills` (100) end it, whichever comes first.
"""

import argparse
import csv
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TOY = {
    "split": "patient", "arch": "mobilenet_v2", "weights": "none", "image_size": 32, "epochs": 2, "precision": "fp32",
    "layout": "channels_last", "device": "cpu",
}  # fmt: skip
# the notebooks leave the layout to be timed: once a home, so that it is the same in every run after the first
TOY_RUN = {name: value for name, value in TOY.items() if name != "layout"} | {
    "archs": "resnet18,mobilenet_v2", "compare_image_size": 32, "compare_budget": "epochs=1",
    "compare_seeds": 1, "replicates": 50, "samples": 4,
}  # fmt: skip


@dataclass
class Stage:
    """What is tortured: `work(folder)` gives what to do, `result(folder)` what must be the same; its share of all."""

    name: str
    work: Callable[[Path], Callable]
    result: Callable[[Path], dict[str, str]]
    share: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--stages", default="phantoms,caching,training,notebooks")
    given = parser.parse_args()
    end, rng = time.monotonic() + 60 * given.minutes, random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="cxr-torture-") as folder:
        stages = [stage for stage in _stages(Path(folder)) if stage.name in given.stages.split(",")]
        whole = sum(stage.share for stage in stages)
        outcomes = []
        for number, stage in enumerate(stages):
            left = (end - time.monotonic()) * stage.share / sum(later.share for later in stages[number:])
            kills = round(given.kills * stage.share / whole)
            outcomes.append(_torture(stage, Path(folder) / stage.name, kills, time.monotonic() + left, rng))
    for outcome in outcomes:
        print(outcome.line)
    failed = [outcome.name for outcome in outcomes if outcome.differences]
    print(
        f"{sum(outcome.kills for outcome in outcomes)} kills; "
        + (f"FAILED: {', '.join(failed)}" if failed else "all as in peace")
    )
    return 1 if failed else 0


@dataclass
class Outcome:
    """How one stage went."""

    name: str
    kills: int = 0
    rounds: int = 0
    files: int = 0
    seconds: float = 0
    differences: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        what = f"{self.kills:3} kills, {self.rounds:2} times finished, {self.files} results the same"
        wrong = "; ".join(self.differences)
        return f"{self.name:<10} {what if not wrong else 'WRONG: ' + wrong}  ({self.seconds:.0f} s undisturbed)"


def _torture(stage: Stage, folder: Path, kills: int, end: float, rng: random.Random) -> Outcome:
    outcome = Outcome(stage.name)
    peace = folder / "peace"
    began = time.monotonic()
    _finish(stage.work(peace), folder, outcome)
    outcome.seconds = time.monotonic() - began
    expected = stage.result(peace)
    outcome.files = len(expected)
    while not outcome.differences and outcome.kills < kills and time.monotonic() + outcome.seconds < end:
        target = folder / f"round{outcome.rounds}"
        for _ in range(rng.randint(1, 8)):
            # not in the last seconds of the bound: the work must still be finished and compared
            if outcome.kills < kills and time.monotonic() + 2 * outcome.seconds < end:
                began = time.monotonic()
                if _killed(stage.work(target), folder, rng.uniform(0.05, 0.95) * outcome.seconds):
                    outcome.kills += 1
                else:
                    outcome.seconds = min(outcome.seconds, max(1, time.monotonic() - began))
                    break
        _finish(stage.work(target), folder, outcome)
        outcome.rounds += 1
        result = stage.result(target)
        outcome.differences += tuple(
            name for name in sorted(expected | result) if expected.get(name) != result.get(name)
        )
        print(f"{stage.name}: {outcome.kills} kills, {outcome.rounds} times finished", flush=True)
        if not outcome.differences:
            shutil.rmtree(target)
    return outcome


def _start(work: Callable, folder: Path) -> int:
    """The number of a process that works."""
    folder.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _killed(work: Callable, folder: Path, after: float) -> bool:
    """Start, kill after so many seconds; whether it was still at work."""
    process, end = _start(work, folder), time.monotonic() + after
    while time.monotonic() < end:
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    _orphans.append(process)
    return True


_orphans: list[int] = []  # process groups whose head was killed: they end once the next start has had to live with them


def _finish(work: Callable, folder: Path, outcome: Outcome) -> None:
    _, status = os.waitpid(_start(work, folder), 0)
    if status:
        outcome.differences += (f"ended with {status}: " + (folder / "log.txt").read_text()[-600:],)
    while _orphans:
        with suppress(ProcessLookupError):
            os.killpg(_orphans.pop(), signal.SIGKILL)


# ---- what is done, and what must be the same ---------------------------------------------------------------------
def _stages(folder: Path) -> list[Stage]:
    os.environ |= {"CXR_HOME": str(folder / "home"), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    import cxrlib.training.loop  # noqa: F401 - now, for all the forks
    from cxrlib.cli.main import main
    from cxrlib.phantom.generate import make_phantoms

    data = folder / "data"
    # in a fork: the workers of this process would be lost in the others
    os.waitpid(_start(lambda: make_phantoms(data, n_patients=60, size=64) and 0, folder), 0)
    toy = [word for name, value in TOY.items() for word in (f"--{name}", str(value))]
    toy_run = [word for name, value in TOY_RUN.items() for word in ("-p", name, str(value))]
    train = ["train", "--img_root", data, "--cache_dir", folder / "cache", "--resume", "--save_minutes", 0.002]
    train += [*toy, "--epochs", 6, "--run_dir"]
    run = ["run", "--data", data, *toy_run, "-p", "run_dir"]

    def cxr(*words) -> Callable:
        return lambda: main([str(word) for word in words])

    return [
        Stage("phantoms", lambda to: lambda: make_phantoms(to / "set", n_patients=60, size=96) and 0, _bytes, 0.27),
        Stage("caching", lambda to: lambda: _cache_slowly(data, to), _cache, 0.28),
        Stage("training", lambda to: cxr(*train, to), _trained, 0.42),
        Stage("notebooks", lambda to: cxr(*run, to / "run"), _run, 0.03),  # each takes minutes
    ]


def _cache_slowly(data: Path, to: Path) -> None:
    """The cache, with a mark of what is done every 8 images, and with pauses, so that a kill meets it at work."""
    from cxrlib.data import cache
    from cxrlib.data.sources import find_images

    read, cache._BATCH, cache.cpu_count = cache.read_image, 8, lambda: 1

    def slowly(path: Path, image_size: int):
        time.sleep(0.01)
        return read(path, image_size)

    cache.read_image = slowly
    cache.build_cache(find_images(data), 64, cache_dir=to)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _bytes(folder: Path) -> dict[str, str]:
    """Every file of a set of phantoms."""
    files = [path for path in (folder / "set").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): _digest(path.read_bytes()) for path in files}


def _cache(folder: Path) -> dict[str, str]:
    """The pixels, the names and the marks of the cache."""
    [cache] = [path.parent for path in folder.glob("*/cache.json")]
    return {name: _digest((cache / name).read_bytes()) for name in ("images.npy", "names.txt", "done.npy")}


def _trained(folder: Path) -> dict[str, str]:
    """The weights bit by bit, the predictions, and the history without its seconds; not what was moved aside."""
    from cxrlib.evaluation.predictions import Predictions
    from cxrlib.models.checkpoints import load_checkpoint

    def kept(pattern: str) -> list[Path]:
        return [path for path in folder.rglob(pattern) if not path.parent.name.startswith("previous-")]

    found = {}
    for path in kept("model_*.pth"):
        checkpoint = load_checkpoint(path)
        for name, value in checkpoint["state_dict"].items():
            found[f"{path.relative_to(folder)}: {name}"] = _digest(value.numpy().tobytes())
        found[f"{path.relative_to(folder)}: epoch"] = str(checkpoint["epoch"])
    for path in kept("predictions_*.npz"):
        found[str(path.relative_to(folder))] = _digest(Predictions.load(path).scores.tobytes())
    for path in kept("history.csv"):
        with path.open(newline="") as file:
            rows = [
                {k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in csv.DictReader(file)
            ]
        found[str(path.relative_to(folder))] = str(rows)
    return found


def _run(folder: Path) -> dict[str, str]:
    """All that the notebooks hand to each other."""
    run = folder / "run"
    tables = [run / name for name in ("splits.csv", "thresholds.json", "metrics.csv")]
    return _trained(run) | {path.name: _digest(path.read_bytes()) for path in tables}


if __name__ == "__main__":
    sys.exit(main())
