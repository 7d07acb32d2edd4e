"""Speed of the input, against the plain way or the limit, side by side in one run; and the memory of training.

    python -m benchmarks.bench_input [--data ../shared/nih-native]

prints one line a figure. A ratio at or above its goal is reached. Without --data it draws PNGs of 1024 pixels itself.
"""

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from benchmarks.timing import drain, fastest, in_turns
from cxrlib.data.cache import ImageCache, build_cache, read_image
from cxrlib.data.dataset import CachedDataset, ChestXrayDataset, augment, make_loader
from cxrlib.data.findings import FINDINGS
from cxrlib.data.sources import find_images
from cxrlib.models.architectures import build_model
from cxrlib.training import costs
from cxrlib.training.config import TrainConfig
from cxrlib.training.loop import fit
from cxrlib.training.losses import make_loss

SIDE, BATCH, IMAGES = 224, 32, 192
STEPS, STEP_BATCH = 12, 16  # training steps that are compared, of either kind, and their images
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
GIB = 2**30
HERE = Path(__file__).parents[1]


def benchmark(data: str | Path | None = None) -> dict[str, dict]:
    """Rows {name: {"ratio", "goal", "detail"}}; data: the root of radiographs of 1024 pixels, as published."""
    with tempfile.TemporaryDirectory() as folder:
        found = find_images(data or draw_radiographs(Path(folder) / "png"))
        paths = list(found.values())
        # one file under several names, so that there is enough to measure; each name is decoded for itself
        images = {f"{number:03d}.png": paths[number % len(paths)] for number in range(IMAGES)}
        cache = build_cache(images, SIDE, cache_dir=Path(folder) / "cache", progress=False)
        return {
            "memory of training": memory_of_training(cache),
            "cache building": cache_building(images, Path(folder)),
            "cached input": cached_input(images, cache),
            "epoch over the cache": epoch_over_the_cache(cache),
        }


def cached_input(images: dict[str, Path], cache: ImageCache) -> dict:
    """Batches from the cache against batches whose PNGs are decoded each epoch, by as many processes as cores."""
    decode = make_loader(ChestXrayDataset(entries_of(images), images, SIDE), BATCH, num_workers=CORES)
    cached = make_loader(CachedDataset(entries_of(images), cache), BATCH)
    slow, fast = IMAGES / fastest(lambda: drain(decode), 3), IMAGES / fastest(lambda: drain(cached), 30)
    detail = (
        f"{fast:,.0f} images/s from the cache, {slow:,.0f} from PNGs by {CORES} processes; {SIDE} px, batch {BATCH}"
    )
    return {"ratio": fast / slow, "goal": 100, "detail": detail}


def epoch_over_the_cache(cache: ImageCache) -> dict:
    """Training steps fed by the loader against the same steps on tensors that lie in memory, taken in turns."""
    torch.manual_seed(0)
    dataset = CachedDataset(entries_of(cache.names), cache)
    loader = make_loader(dataset, STEP_BATCH)
    in_memory = list(loader)
    model = build_model("mobilenet_v2", "none", SIDE).train()
    optimizer, criterion = torch.optim.AdamW(model.parameters(), lr=1e-4), make_loss("bce")
    feeds = {"memory": cycle(lambda: in_memory), "cache": cycle(lambda: loader)}

    def step(feed: str) -> None:
        x, labels = next(feeds[feed])
        criterion(model(augment(x)), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    step("memory"), step("cache")
    memory, cached = np.median(in_turns(lambda: step("memory"), lambda: step("cache"), STEPS), axis=0)
    read = fastest(lambda: drain(loader), 10) / len(loader)
    detail = (
        f"a step takes {cached:.3f} s from the cache, {memory:.3f} s from memory (medians of {STEPS} in turns), "
        f"{read:.5f} s of it to read; mobilenet_v2, {SIDE} px, batch {STEP_BATCH}"
    )
    return {"ratio": float(memory / cached), "goal": 0.95, "detail": detail}


def cache_building(images: dict[str, Path], folder: Path) -> dict:
    """Building the cache against the limit: all cores decoding and resizing, each in a process of its own, in turns.

    The limit is measured on all cores at once, because other work on the machine takes its share of each.
    """
    shares = [list(images.values())[core::CORES] for core in range(CORES)]

    def build() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as cache_dir:
            build_cache(images, SIDE, cache_dir=cache_dir, progress=False)

    with ProcessPoolExecutor(CORES, mp_context=multiprocessing.get_context("spawn")) as pool:
        drain(pool.map(decode_all, shares))  # so that the processes are there, and the files in memory
        turns = in_turns(lambda: drain(pool.map(decode_all, shares)), build, 5)
    limit, taken = np.min(turns, axis=0)
    detail = f"{IMAGES / taken:.0f} images/s, the limit of {CORES} cores is {IMAGES / limit:.0f} images/s; {SIDE} px"
    return {"ratio": float(limit / taken), "goal": 0.85, "detail": detail}


def decode_all(paths: list[Path]) -> None:
    for path in paths:
        read_image(path, SIDE)


def memory_of_training(cache: ImageCache) -> dict:
    """Peak memory of a process of its own that trains for an epoch, against the 4 GiB that it is told are free."""
    run = [sys.executable, "-m", "benchmarks.bench_input", "--train-on", str(cache.folder)]
    peak = float(subprocess.run(run, capture_output=True, text=True, check=True, cwd=HERE).stdout.split()[-1])
    detail = f"{peak / GIB:.2f} GiB at the peak; efficientnet_b0, {SIDE} px, batch {BATCH}"
    return {"ratio": 4 * GIB / peak, "goal": 1, "detail": detail}


def train_once(cache: ImageCache) -> None:
    """One epoch of three steps and its validation, as where 4 GiB are free; prints the peak memory in bytes."""
    costs.free_memory = lambda: 4 * GIB  # on this machine there may be more, and a faster precision that takes it
    entries = entries_of(cache.names)[: 5 * BATCH]
    entries["part"] = np.where(np.arange(len(entries)) < 3 * BATCH, "train", "val")
    config = TrainConfig(arch="efficientnet_b0", weights="none", image_size=SIDE, epochs=1, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as out:
        fit(config, entries, cache, out, progress=False)
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def entries_of(names) -> pd.DataFrame:
    """Entries with random labels: what is labelled does not matter to the speed."""
    entries = pd.DataFrame({"image": list(names), "patient": range(len(names))})
    labels = np.random.default_rng(0).integers(0, 2, (len(entries), len(FINDINGS)), dtype=np.uint8)
    return entries.join(pd.DataFrame(labels, columns=list(FINDINGS)))


def draw_radiographs(folder: Path, count: int = 16) -> Path:
    """Clouds with a fine grain, which PNG compresses to about as much as a radiograph of 1024 pixels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        clouds = Image.fromarray(rng.integers(30, 220, (12, 12), dtype=np.uint8)).resize((1024, 1024), Image.BICUBIC)
        grain = np.asarray(clouds) + rng.normal(0, 1.5, (1024, 1024))
        Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def cycle(epochs: Callable):
    while True:
        yield from epochs()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="root of radiographs as published, of 1024 pixels a side")
    parser.add_argument("--train-on", help=argparse.SUPPRESS)  # the process whose memory is measured
    given = parser.parse_args()
    if given.train_on:
        return train_once(ImageCache(given.train_on))
    for name, row in benchmark(given.data).items():
        print(f"{name}: {row['ratio']:.2f} (goal {row['goal']}); {row['detail']}")


if __name__ == "__main__":
    main()
