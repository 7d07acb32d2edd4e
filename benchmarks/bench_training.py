"""Speed of training, against a textbook loop, side by side in one run: the step, the way to its result, the input.

    python -m benchmarks.bench_training [--steps efficientnet_b0,densenet121]

The plain loop, as a tutorial writes it: torchvision's network as it comes, three-channel float32 images in the standard
memory layout, AdamW as it comes, no augmentation, no averaging of weights. Ours is `fit`, with all that it does beside.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.bench_input import entries_of
from benchmarks.timing import drain, fastest, in_turns
from cxrlib.course.opening import open_data
from cxrlib.data.cache import ImageCache, build_cache
from cxrlib.data.dataset import CachedDataset, EpochBatches, make_loader
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import reference_entries
from cxrlib.data.splits import split
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import ARCHITECTURES, build_model
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import kept_memory
from cxrlib.training.loop import _Training, fit

SIDE, BATCH, TURNS = 224, 32, 3
BATCHES = {"vgg16": 8, "vit_b_16": 8}  # one image a second
# the issue of speed differs by network: what bf16 and the memory layout bring depends on its layers
GOALS = {"efficientnet_b0": 1.3, "efficientnet_lite0": 1.3, "resnet18": 2, "densenet121": 4,
         "mobilenet_v2": 1, "vgg16": 1, "vit_b_16": 1}  # fmt: skip
OF_TORCHVISION = [arch for arch in GOALS if arch != "efficientnet_lite0"]
REACH = {"arch": "efficientnet_lite0", "image_size": 96, "batch_size": 32}  # the way to a result
PLAIN_EPOCHS, PLAIN_LR = 4, 1e-4
ALL, SOME, INPUT_SIDE, BETWEEN = 112_120, 5_000, 128, 150  # images of the cache whose input is measured, and batches
HERE = Path(__file__).parents[1]
_kept = ExitStack()


def benchmark() -> dict[str, dict]:
    """Rows {name: {"ratio", "goal", "detail"}}; a ratio at or above its goal is reached."""
    rows = {f"training step, {arch}": training_step(arch) for arch in GOALS}
    ratios = [rows[f"training step, {arch}"]["ratio"] for arch in OF_TORCHVISION]
    detail = "geometric mean over the six of torchvision"
    rows |= beside_a_busy_program()
    rows["training step, the six"] = {"ratio": float(np.exp(np.log(ratios).mean())), "goal": 2, "detail": detail}
    with tempfile.TemporaryDirectory() as folder:
        rows |= input_of_all(Path(folder))
        rows["way to the plain loop's AUROC"] = way_to_a_result(Path(folder))
    return rows


# ---- the step --------------------------------------------------------------------------------------------------------
def training_step(arch: str) -> dict:
    """One step of `fit`, in the precision and layout that it chooses here, against one of the plain loop, in turns.

    Each in a process of its own, because `fit` also changes how its process keeps memory.
    """
    with tempfile.TemporaryDirectory() as folder, steps_of(our_step, arch, folder) as ours, \
         steps_of(plain_step, arch, folder) as plain:  # fmt: skip
        chosen = ours.submit(take_step).result()
        plain.submit(take_step).result()
        both = [lambda: ours.submit(take_step).result(), lambda: plain.submit(take_step).result()]
        seconds, plainly = in_turns(*both, TURNS).min(axis=0)
    batch = BATCHES.get(arch, BATCH)
    detail = f"{batch / seconds:.1f} images/s ({chosen}), plainly {batch / plainly:.1f}; {SIDE} px, batch {batch}"
    return {"ratio": float(plainly / seconds), "goal": GOALS[arch], "detail": detail}


def steps_of(make: Callable, arch: str, folder: str) -> ProcessPoolExecutor:
    """A process that has made its training step and waits to be asked for it."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), prepare_step, (make, arch, folder))


def prepare_step(make: Callable, arch: str, folder: str) -> None:
    global _step
    _step = make(arch, BATCHES.get(arch, BATCH), Path(folder) / make.__name__)


def take_step() -> str | None:
    return _step()


def our_step(arch: str, batch: int, folder: Path) -> Callable[[], str]:
    """A function that takes one step of `fit`, and returns the precision and the layout."""
    cache = random_cache(folder, 2 * batch, SIDE)
    entries = entries_of(cache.names).assign(part=np.repeat(["train", "val"], batch))
    config = TrainConfig(arch=arch, weights="none", image_size=SIDE, batch_size=batch)
    training = _Training(config, entries, cache, folder / "out", progress=False)
    training.start()
    training.model.train()
    [(images, labels)] = training.loader
    _kept.enter_context(kept_memory())  # as fit does; for as long as the process lives

    def step() -> str:
        training.step = 0
        training._update(images, labels).item()
        return " ".join(training.choice.values())

    return step


def plain_step(arch: str, batch: int, folder: Path) -> Callable[[], None]:
    """A function that takes one step of the textbook."""
    images, labels = torch.rand(batch, 3, SIDE, SIDE), torch.randint(0, 2, (batch, len(FINDINGS))).float()
    model = plain_network(arch, "none").train()
    optimizer, criterion = torch.optim.AdamW(model.parameters(), lr=PLAIN_LR), nn.BCEWithLogitsLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def plain_network(arch: str, weights: str) -> nn.Module:
    """The network itself, in the standard memory layout, with fourteen outputs."""
    return build_model(arch, weights, REACH["image_size"] if weights == "imagenet" else SIDE).backbone.to(
        memory_format=torch.contiguous_format
    )


# ---- beside other programs -------------------------------------------------------------------------------------------
def beside_a_busy_program() -> dict[str, dict]:
    """The step of `fit` alone and beside a program that keeps one core busy, as threads wait for each other by default.

    And alone against the fastest of other ways to wait; all in turns, each in a process of its own.
    """
    ways = {"ours": {}, "of OpenMP": {"GOMP_SPINCOUNT": "300000"}, "passive": {"OMP_WAIT_POLICY": "passive"},
            "longer": {"GOMP_SPINCOUNT": "10000"}}  # fmt: skip
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    alone, beside = {name: [] for name in ways}, {name: [] for name in ways}
    run = [sys.executable, "-m", "benchmarks.bench_training", "--answer"]
    with ExitStack() as stack:
        asked = {name: stack.enter_context(subprocess.Popen(run, env=plain | way, cwd=HERE, text=True,
                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)) for name, way in ways.items()}  # fmt: skip

        def ask(name: str) -> float:
            print("step", file=asked[name].stdin, flush=True)
            return float(asked[name].stdout.readline())

        for name in ways:  # ready, and warm
            ask(name)
        for turn in range(2 * TURNS):
            for seconds, busy in ((alone, 0), (beside, 1)):
                others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
                try:
                    for name in list(ways)[:: 1 if turn % 2 else -1]:
                        seconds[name].append(ask(name))
                finally:
                    for other in others:
                        other.kill()
                        other.wait()
    of_alone, of_beside = ({name: BATCH / np.median(taken) for name, taken in each.items()} for each in (alone, beside))
    detail = "images/s alone, beside: " + ", ".join(
        f"{name} {of_alone[name]:.0f}, {of_beside[name]:.0f}" for name in ways
    )
    detail += f"; {REACH['arch']}, 128 px, batch {BATCH}"
    return {
        "step beside a busy program": {"ratio": of_beside["ours"] / of_alone["ours"], "goal": 0.53, "detail": detail},
        "step alone, the best way to wait": {"ratio": of_alone["ours"] / max(of_alone.values()), "goal": 0.97,
                                             "detail": detail},
    }  # fmt: skip


def answer() -> None:
    """The seconds of a training step for each line that is read."""
    model = build_model(REACH["arch"], "none", 128).train()
    optimizer, images = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True), torch.rand(BATCH, 1, 128, 128)

    def step() -> None:
        model(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    with kept_memory():
        step()
        for _ in sys.stdin:
            print(fastest(step, 1), flush=True)


# ---- the way to a result ---------------------------------------------------------------------------------------------
class PlainDataset(Dataset):
    """As tutorials write it: every image is opened, made RGB, resized and normalized each time it is asked for."""

    def __init__(self, entries: pd.DataFrame, images: dict[str, Path]):
        self.paths = [images[name] for name in entries["image"]]
        self.labels = torch.tensor(entries[list(FINDINGS)].to_numpy(), dtype=torch.float32)
        side = REACH["image_size"]
        normalize = transforms.Normalize(*ARCHITECTURES[REACH["arch"]].norm)
        self.transform = transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


def way_to_a_result(folder: Path) -> dict:
    """Seconds of `fit`, all counted, until its validation AUROC is what the plain loop ends at, against those of that.

    On phantoms, from the same ImageNet weights. Both decode from PNG: the plain loop in every epoch, ours once, into
    an empty cache.
    """
    data = open_data()
    entries = split(data.entries, "official", lists_in=data.folders)
    parts = {part: entries[entries["part"] == part] for part in ("train", "val")}
    plain_seconds, plain = plain_training(parts, data.images)
    began = time.perf_counter()
    images = build_cache(data.images, REACH["image_size"], pd.concat(parts.values())["image"], folder, progress=False)
    config = TrainConfig(**REACH, epochs=3, lr=1e-3, augment=0.5, precision="fp32", layout="channels_last")
    history = fit(config, entries, images, folder / "out", progress=False)
    taken = time.perf_counter() - began - history["seconds"].sum() + history["seconds"].cumsum()
    there = history["val_auroc"] >= plain
    seconds = taken[there].iloc[0] if there.any() else np.inf
    detail = (f"validation macro AUROC {plain:.3f} after {seconds:.0f} s (then to {history['val_auroc'].max():.3f}), "
              f"plainly {plain_seconds:.0f} s; phantoms, {REACH['arch']}, {REACH['image_size']} px, "
              f"{PLAIN_EPOCHS} plain epochs at {PLAIN_LR:g}")  # fmt: skip
    return {"ratio": float(plain_seconds / seconds), "goal": 3, "detail": detail}


def plain_training(parts: dict[str, pd.DataFrame], images: dict[str, Path]) -> tuple[float, float]:
    """Seconds of the plain loop, and the validation macro AUROC that it ends at."""
    torch.manual_seed(0)
    began = time.perf_counter()
    model = plain_network(REACH["arch"], "imagenet")
    train, val = (PlainDataset(parts[part], images) for part in ("train", "val"))
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=PLAIN_LR), nn.BCEWithLogitsLoss()
    for _ in range(PLAIN_EPOCHS):
        model.train()
        for x, labels in DataLoader(train, REACH["batch_size"], shuffle=True, num_workers=2):
            optimizer.zero_grad()
            criterion(model(x), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            scores = torch.cat([model(x).sigmoid() for x, _ in DataLoader(val, 64)])
    seconds = time.perf_counter() - began
    of = parts["val"]
    predictions = Predictions(scores.numpy(), of[list(FINDINGS)].to_numpy(), of["image"].array, of["patient"].array)
    return seconds, evaluate(predictions, replicates=0).loc["macro", "auroc"]


# ---- the input of all images -----------------------------------------------------------------------------------------
def input_of_all(folder: Path) -> dict[str, dict]:
    """Batches in random order from a cache of as many images as NIH published against one of 5,000; and the start."""
    entries = reference_entries()
    cache = random_cache(folder / "all", len(entries), INPUT_SIDE, sorted(entries["image"]))
    datasets = [CachedDataset(entries, cache), CachedDataset(entries.head(SOME), cache)]
    loaders = [make_loader(dataset, batches=EpochBatches(len(dataset), 32)) for dataset in datasets]
    drain(loaders[0])  # so that the files are in memory for both
    turns = np.array([[read_between_steps(loader) for loader in loaders] for _ in range(TURNS)])
    all_of_them, some = BETWEEN * 32 / turns.min(axis=0)
    run = [sys.executable, "-m", "benchmarks.bench_training", "--start-on", str(cache.folder)]
    start = float(subprocess.run(run, capture_output=True, text=True, check=True, cwd=HERE).stdout.split()[-1])
    size = f"{len(entries):,} images of {INPUT_SIDE} px, {cache.images.nbytes / 1e9:.1f} GB of random bytes"
    detail = f"{all_of_them:,.0f} images/s, and {some:,.0f} from {SOME:,}; {size}"
    started = f"{start:.1f} s from the metadata to the first batch, the libraries loaded before; {size}"
    return {"input of all images": {"ratio": all_of_them / some, "goal": 0.9, "detail": detail},
            "start on all images within 5 s": {"ratio": 5 / start, "goal": 1, "detail": started}}  # fmt: skip


def read_between_steps(loader: DataLoader) -> float:
    """Seconds of reading batches, each after other bytes have gone through the processor's cache, as a step's do.

    Without that, 5,000 images would come from there, and 112,120 from memory: a difference that no training meets.
    """
    batches, other, seconds = iter(loader), np.ones(128 * 2**20, np.uint8), 0.0
    for _ in range(BETWEEN):
        other += 1
        began = time.perf_counter()
        next(batches)
        seconds += time.perf_counter() - began
    return seconds


def start_on(folder: str) -> None:
    """Prints the seconds from the metadata of all images, through split and cache, to the first batch."""
    began = time.perf_counter()
    entries = split(reference_entries(), "official")
    dataset = CachedDataset(entries[entries["part"] == "train"], ImageCache(folder))
    next(iter(make_loader(dataset, batches=EpochBatches(len(dataset), 32))))
    print(time.perf_counter() - began)


def random_cache(folder: Path, count: int, side: int, names: list[str] | None = None) -> ImageCache:
    """A cache, in the files of `build_cache`, whose images are random bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, side, side))
    for first in range(0, count, 1000):
        images[first : first + 1000] = rng.integers(0, 256, images[first : first + 1000].shape, np.uint8)
    images.flush()
    np.save(folder / "done.npy", np.ones(count, np.uint8))
    (folder / "names.txt").write_text("\n".join(names or [f"{number:08d}_000.png" for number in range(count)]))
    (folder / "cache.json").write_text(f'{{"format": 1, "image_size": {side}, "images": {count}}}')
    return ImageCache(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", help="only the training step of these architectures")
    parser.add_argument("--start-on", help=argparse.SUPPRESS)  # the process whose start is measured
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)  # a process whose steps are measured
    given = parser.parse_args()
    if given.answer:
        return answer()
    if given.start_on:
        return start_on(given.start_on)
    steps = given.steps and {f"training step, {arch}": training_step(arch) for arch in given.steps.split(",")}
    for name, row in (steps or benchmark()).items():
        print(f"{name}: {row['ratio']:.2f} (goal {row['goal']}); {row['detail']}")


if __name__ == "__main__":
    main()
