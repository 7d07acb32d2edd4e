"""Speed of prediction: the forward passes against onnxruntime, and `cxr predict` on 1,000 PNGs against its two parts.

    python -m benchmarks bench_predict

Everything is at 224 pixels on all cores; without onnxruntime, the first figures are left out.
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from benchmarks.bench_input import draw_radiographs, entries_of
from benchmarks.bench_training import random_cache
from benchmarks.timing import fastest
from cxrlib.cli.main import main as cxr
from cxrlib.data.dataset import CachedDataset
from cxrlib.data.images import read_radiograph
from cxrlib.models.architectures import build_model, save_checkpoint
from cxrlib.training.device import kept_memory
from cxrlib.training.familiarity import fit_familiarity
from cxrlib.training.inference import Engine

SIDE, BATCH, TIMES = 224, 32, 5
FILES, ARCH = 1000, "efficientnet_b0"


def benchmark() -> dict[str, dict]:
    """Rows {name: {"ratio", "goal", "detail"}}; a ratio at or above its goal is reached."""
    rows = {}
    if find_spec("onnxruntime"):
        rows = {f"prediction, {arch}": forward_passes(arch) for arch in ("efficientnet_b0", "resnet18", "densenet121")}
    with tempfile.TemporaryDirectory() as folder:
        return rows | predicting_files(Path(folder))


def forward_passes(arch: str) -> dict:
    """Ours, scores and features, against onnxruntime as it comes, which shares each layer among the cores; in turns."""
    import onnxruntime

    torch.manual_seed(0)
    model = build_model(arch, "none", SIDE).eval()
    images = torch.randint(0, 256, (BATCH, 1, SIDE, SIDE), dtype=torch.uint8)
    file, unit = io.BytesIO(), images.float().numpy() / 255
    torch.onnx.export(model, (images[:1].float() / 255,), file, input_names=["x"], dynamic_axes={"x": {0: "b"}},
                      dynamo=False)  # fmt: skip
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    few, many = Engine(model), Engine(model, 10_000)
    ways: dict[str, Callable] = {
        "onnxruntime": lambda: session.run(None, {"x": unit}),
        "ours": lambda: many(images),
        "ours without it": lambda: few(images),
        "the model": lambda: model(images),
    }
    seconds = {name: [] for name in ways}
    with kept_memory(), torch.inference_mode():
        difference = float((many(images)[0] - model(images).sigmoid()).abs().max())
        for turn in range(TIMES + 1):
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                seconds[name].append(fastest(ways[name], 1))
    speeds = {name: BATCH / min(taken[1:]) for name, taken in seconds.items()}
    detail = ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items())
    detail = f"images/s: {detail}; scores differ by {difference:.0e}; {SIDE} px, batch {BATCH}"
    return {"ratio": speeds["ours"] / speeds["onnxruntime"], "goal": 1, "detail": detail}


def predicting_files(folder: Path) -> dict[str, dict]:
    """`cxr predict` without a page, against decoding alone and forward passes alone, each on all cores.

    Both parts need the same cores, so that together they cannot be as fast as the slower one: the second figure is
    against the time of both, one after the other.
    """
    files = many_names(draw_radiographs(folder / "png"), folder / "films", FILES)
    torch.manual_seed(0)
    model = build_model(ARCH, "none", SIDE).eval()
    images = torch.randint(0, 256, (64, 1, SIDE, SIDE), dtype=torch.uint8)
    cache = random_cache(folder / "cache", 64, SIDE)
    train, val = (CachedDataset(entries_of(names), cache) for names in (cache.names[:32], cache.names[32:]))
    about = {"parts": {"train": [], "val": []}, "config": {"split": "patient", "seed": 0, "val_subset": 0}, "epoch": 1}
    about["familiarity"] = fit_familiarity(model, train, val)
    weights = save_checkpoint(folder / "model.pth", model, **about)
    said = ["predict", str(folder / "films"), "--weights", str(weights), "--out", str(folder / "out")]
    said += ["--no_page", "--force", "--device", "cpu"]
    engine, batch = Engine(model, FILES), images[:BATCH]

    def decode() -> None:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for _ in pool.map(lambda path: read_radiograph(path).square(SIDE), files):
                pass

    def compute() -> None:
        for _ in range(0, FILES, BATCH):
            engine(batch)

    def predict() -> None:
        with redirect_stdout(io.StringIO()):
            cxr(said)

    with kept_memory():
        seconds = {name: timed(part) for name, part in (("decoding", decode), ("forward", compute), ("all", predict))}
        memory = psutil.Process().memory_info().rss
        seconds = {name: min(taken, timed(part)) for (name, taken), part in
                   zip(seconds.items(), (decode, compute, predict), strict=True)}  # fmt: skip
        grown = (psutil.Process().memory_info().rss - memory) / 2**20
    slower, both = max(seconds["decoding"], seconds["forward"]), seconds["decoding"] + seconds["forward"]
    detail = ", ".join(f"{name} {FILES / taken:.0f}" for name, taken in seconds.items())
    detail = f"images/s: {detail}; {ARCH}, {FILES:,} PNGs of 1024 px; {grown:+.0f} MiB in a second run"
    return {"cxr predict, slower part": {"ratio": slower / seconds["all"], "goal": 0.9, "detail": detail},
            "cxr predict, both parts": {"ratio": both / seconds["all"], "goal": 0.9, "detail": detail}}  # fmt: skip


def timed(function: Callable) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def many_names(source: Path, target: Path, count: int) -> list[Path]:
    """A few files under many names, each of which is decoded for itself."""
    target.mkdir()
    drawn = sorted(source.iterdir())
    for number in range(count):
        (target / f"{number:04d}.png").hardlink_to(drawn[number % len(drawn)])
    return sorted(target.iterdir())


def main() -> None:
    for name, row in benchmark().items():
        print(f"{name}: {row['ratio']:.2f} (goal {row['goal']}); {row['detail']}")


if __name__ == "__main__":
    sys.exit(main())
