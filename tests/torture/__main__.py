"""`make torture`: kill -9 at random moments, a hundred times, and see that the work ends as if nothing had happened.

Phantoms, caching, training and the six notebooks, at toy size, as processes of their own. Each is first done once in
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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CXR = "import sys\nfrom cxrlib.cli import main\nsys.exit(main(sys.argv[1:]))"
# the cache marks what is done every 8 images, and takes its time, so that a kill meets it at work
SLOW_CACHE = """
import sys, time
from cxrlib import cache
from cxrlib.sources import find_images
read, cache._BATCH = cache.read_image, 8
def slowly(path, image_size):
    time.sleep(0.02)
    return read(path, image_size)
cache.read_image = slowly
cache.build_cache(find_images(sys.argv[1]), 64, cache_dir=sys.argv[2], workers=1)
"""
TOY = {
    "split": "patient", "arch": "mobilenet_v2", "weights": "none", "image_size": 32, "epochs": 2, "precision": "fp32",
    "layout": "channels_last", "device": "cpu",
}  # fmt: skip
TOY_RUN = TOY | {
    "archs": "resnet18,mobilenet_v2", "compare_image_size": 32, "compare_epochs": 1, "replicates": 50, "samples": 4,
}  # fmt: skip


@dataclass
class Stage:
    """What is tortured: `command(folder)` works into a folder, `result(folder)` is what must be the same; its share."""

    name: str
    command: Callable[[Path], list[str]]
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
    _finish(stage.command(peace), folder, outcome)
    outcome.seconds = time.monotonic() - began
    expected = stage.result(peace)
    outcome.files = len(expected)
    while not outcome.differences and outcome.kills < kills and time.monotonic() + outcome.seconds < end:
        target = folder / f"round{outcome.rounds}"
        for _ in range(rng.randint(1, 8)):
            # not in the last seconds of the bound: the work must still be finished and compared
            if outcome.kills < kills and time.monotonic() + 2 * outcome.seconds < end:
                outcome.kills += _killed(stage.command(target), folder, rng.uniform(0.1, 0.9) * outcome.seconds)
        _finish(stage.command(target), folder, outcome)
        outcome.rounds += 1
        result = stage.result(target)
        outcome.differences += tuple(
            name for name in sorted(expected | result) if expected.get(name) != result.get(name)
        )
        print(f"{stage.name}: {outcome.kills} kills, {outcome.rounds} times finished", flush=True)
        if not outcome.differences:
            shutil.rmtree(target)
    return outcome


def _start(command: list[str], folder: Path) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"CXR_HOME": str(folder / "home"), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    log = (folder / "log.txt").open("w")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _killed(command: list[str], folder: Path, after: float) -> bool:
    """Start, kill after so many seconds; whether it was still at work."""
    process = _start(command, folder)
    with suppress(subprocess.TimeoutExpired):
        process.wait(after)
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    _orphans.append(process.pid)
    return True


_orphans: list[int] = []  # process groups whose head was killed: they end once the next start has had to live with them


def _finish(command: list[str], folder: Path, outcome: Outcome) -> None:
    process = _start(command, folder)
    if process.wait():
        outcome.differences += (f"exit code {process.returncode}: " + (folder / "log.txt").read_text()[-600:],)
    while _orphans:
        with suppress(ProcessLookupError):
            os.killpg(_orphans.pop(), signal.SIGKILL)


# ---- what is done, and what must be the same ---------------------------------------------------------------------
def _stages(folder: Path) -> list[Stage]:
    data = folder / "data"
    subprocess.run(_cxr("phantom", data, "--n_patients", 60, "--size", 64), check=True, stdout=subprocess.DEVNULL,
                   env=os.environ | {"TQDM_DISABLE": "1"})  # fmt: skip
    toy = [word for name, value in TOY.items() for word in (f"--{name}", value)]
    toy_run = [word for name, value in TOY_RUN.items() for word in ("-p", name, value)]

    def train(target: Path) -> list[str]:
        return _cxr("train", "--img_root", data, "--cache_dir", folder / "cache", "--run_dir", target, "--resume",
                    "--save_minutes", 0.01, *toy, "--epochs", 6)  # fmt: skip

    return [
        Stage("phantoms", lambda to: _cxr("phantom", to / "set", "--n_patients", 80, "--size", 96), _bytes, 0.25),
        Stage("caching", lambda to: [sys.executable, "-c", SLOW_CACHE, str(data), str(to)], _cache, 0.3),
        Stage("training", train, _trained, 0.3),
        Stage("notebooks", lambda to: _cxr("run", "--data", data, "-p", "run_dir", to / "run", *toy_run), _run, 0.15),
    ]


def _cxr(*words) -> list[str]:
    return [sys.executable, "-c", CXR, *map(str, words)]


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
    """The weights bit by bit, the predictions, and the history without its seconds."""
    from cxrlib.checkpoints import load_checkpoint
    from cxrlib.predictions import Predictions

    found = {}
    for path in folder.rglob("model_*.pth"):
        checkpoint = load_checkpoint(path)
        for name, value in checkpoint["state_dict"].items():
            found[f"{path.relative_to(folder)}: {name}"] = _digest(value.numpy().tobytes())
        found[f"{path.relative_to(folder)}: epoch"] = str(checkpoint["epoch"])
    for path in folder.rglob("predictions_*.npz"):
        found[str(path.relative_to(folder))] = _digest(Predictions.load(path).scores.tobytes())
    for path in folder.rglob("history.csv"):
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
