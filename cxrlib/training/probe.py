"""The linear probe: a head trained on the features of a frozen network.

The features are the input of the model's head. A logistic regression is fitted to them and folded back into the head,
so that the checkpoint is an ordinary model.
"""

import copy
import hashlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import set_seed
from filelock import FileLock
from torch import nn

from cxrlib.core.paths import write_csv, write_rows
from cxrlib.core.progress import bar
from cxrlib.data.cache import ImageCache
from cxrlib.data.dataset import make_loader
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import ChestXrayModel, build_model, save_checkpoint
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import pick_device
from cxrlib.training.inference import predict
from cxrlib.training.inputs import datasets, parts_to_remember
from cxrlib.training.losses import make_loss
from cxrlib.training.optimization import start_at_prevalence

# Ridge penalties on the weights of standardized features, strongest first; validation selects one for all findings,
# because single findings have too few positives.
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_PATIENCE = 2  # penalties without improvement before the weaker ones are skipped
_ITERATIONS = 200  # of L-BFGS, at most, per penalty
_CONSTANT = 1e-6  # features with a smaller standard deviation are ignored, such as dead units of a random network


def fit_probe(
    config: TrainConfig,
    entries: pd.DataFrame,
    images: ImageCache | dict[str, Path],
    out: str | Path,
    progress: bool = True,
) -> pd.DataFrame:
    """Train only the head on the training split and select its penalty on the validation split.

    Arguments, files and columns are those of `loop.fit`, with one row per penalty instead of epoch (column penalty; lr
    is NaN): model_best.pth has the penalty with the highest validation macro AUROC, model_last.pth the last one tried.
    Of the training parameters only loss and pos_weight_cap are used; images are not augmented.
    """
    set_seed(config.seed)
    model = build_model(config.arch, config.weights, config.image_size).to(pick_device(config.device))
    train, val = datasets(config, entries, images)
    parts = parts_to_remember(config, entries)
    began = time.perf_counter()
    x, y = (features(model, part, 2 * config.batch_size, progress) for part in (train, val))
    speed = (len(x) + len(y)) / (time.perf_counter() - began)
    scale = _Scale(x)
    criterion = make_loss(config.loss, train.labels, config.pos_weight_cap).to(x.device)
    tried = list(_tried(scale(x), scale(y), train.labels.to(x.device), val, criterion))
    history = pd.DataFrame([row for row, _, _ in tried]).assign(images_per_s=speed)
    best = int(np.flatnonzero(history["best"])[-1])
    model.tta, out = config.tta, Path(out)
    for name, (row, head, _) in (("last", tried[-1]), ("best", tried[best])):
        fold(model, head, scale)
        about = {"parts": parts, "config": config.model_dump(), "epoch": row["epoch"], "val_auroc": row["val_auroc"]}
        save_checkpoint(out / f"model_{name}.pth", model, **about)
    (predict(model, val, 2 * config.batch_size) if config.tta else tried[best][2]).save(out / "predictions_val.npz")
    write_csv(out / "history.csv", history, index=False)
    return history


def features(model: ChestXrayModel, dataset, batch_size: int = 64, progress: bool = False) -> torch.Tensor:
    """The input of the model's head for every row of a dataset, (n, features) float32 on the model's device.

    For an `ImageCache` they are stored in its folder by a hash of the weights below the head, so that only rows that
    were not computed before need a forward pass.
    """
    device = next(model.parameters()).device
    cache = getattr(dataset, "cache", None)
    if cache is None:
        return torch.cat(list(_batches(model, dataset, range(len(dataset)), batch_size, progress))).to(device)
    rows = cache.rows(dataset.entries["image"])
    folder = cache.folder / f"features-{model.arch}-{_fingerprint(model)}"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        stored, done = _stored(folder, len(cache.names), model.head.in_features)
        missing = np.flatnonzero(done[rows] == 0)
        first = 0
        for batch in _batches(model, dataset, missing, batch_size, progress):
            places = rows[missing[first : first + len(batch)]]
            content = ((int(place), row.tobytes()) for place, row in zip(places, batch.numpy(), strict=True))
            write_rows(folder / "features.npy", stored.offset, content)
            done[places] = 1  # only after the features are written
            first += len(batch)
        done.flush()
        return torch.from_numpy(stored[rows]).to(device)


def fold(model: ChestXrayModel, head: nn.Linear, scale: "_Scale") -> None:
    """Write a head on standardized features into the model so that it gives the same logits on raw features."""
    weight, bias, mean, std = (each.detach().cpu().double() for each in (head.weight, head.bias, scale.mean, scale.std))
    weight = weight / std  # in float64, which MPS lacks
    bias = bias - weight @ mean
    with torch.no_grad():
        model.head.weight.copy_(weight)
        model.head.bias.copy_(bias)


class _Scale:
    """Standardizes features by the mean and standard deviation (features,) of `x`; constant features become 0."""

    def __init__(self, x: torch.Tensor):
        self.mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
        self.std = torch.where(std > _CONSTANT, std, torch.inf)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def _tried(x, y, labels: torch.Tensor, val, criterion: nn.Module):
    """Yield the history row, head and validation predictions of each penalty until there is no more improvement.

    x, y: standardized features of training and validation; labels: of training.
    """
    head, best = nn.Linear(x.shape[1], labels.shape[1]).to(x.device), (-np.inf, 0)
    nn.init.zeros_(head.weight)
    start_at_prevalence(head, labels)
    for number, penalty in enumerate(PENALTIES, start=1):
        began = time.perf_counter()
        train_loss = _minimize(head, x, labels, criterion, penalty)
        with torch.inference_mode():
            logits = head(y)
            val_loss = float(criterion(logits, val.labels.to(y.device)))
        names, patients = (val.entries[column].to_numpy() for column in ("image", "patient"))
        predictions = Predictions(logits.sigmoid().cpu().numpy(), val.labels.numpy(), names, patients)
        auroc = float(evaluate(predictions, replicates=0).loc["macro", "auroc"])
        row = {"epoch": number, "penalty": penalty, "lr": np.nan, "train_loss": train_loss, "val_loss": val_loss}
        row |= {"val_auroc": auroc, "seconds": time.perf_counter() - began, "best": auroc > best[0]}
        best = max(best, (auroc, number), key=lambda one: one[0])
        yield row, copy.deepcopy(head), predictions
        if number - best[1] == _PATIENCE:
            return


def _minimize(head: nn.Linear, x: torch.Tensor, labels: torch.Tensor, criterion: nn.Module, penalty: float) -> float:
    """Fit the head by L-BFGS from its current weights; returns the loss without the penalty."""
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=_ITERATIONS, tolerance_grad=1e-6,
                                  tolerance_change=1e-8, line_search_fn="strong_wolfe")  # fmt: skip

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        # the penalty is averaged over the findings, like the criterion
        loss = criterion(head(x), labels) + penalty / 2 * head.weight.square().sum() / len(head.weight)
        loss.backward()
        return loss

    optimizer.step(objective)
    with torch.inference_mode():
        return float(criterion(head(x), labels))


def _batches(model: ChestXrayModel, dataset, rows, batch_size: int, progress: bool):
    """Yield the features of rows of a dataset by batch, on the CPU, with the model in evaluation mode."""
    caught, device = [], next(model.parameters()).device
    hook = model.head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    loader = make_loader(torch.utils.data.Subset(dataset, list(rows)), batch_size)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for images, _ in bar(loader, show=progress and len(rows) > 0, desc="features", unit=" batches",
                                 leave=False):  # fmt: skip
                model(images.to(device))
                yield caught.pop().flatten(1).float().cpu()
    finally:
        hook.remove()
        model.train(was_training)


def _stored(folder: Path, rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The memory maps features (rows, width) float32 and done (rows,) uint8, created if missing."""
    paths = folder / "features.npy", folder / "done.npy"
    if not all(path.is_file() for path in paths):
        np.lib.format.open_memmap(paths[0], mode="w+", dtype=np.float32, shape=(rows, width)).flush()  # sparse
        np.save(paths[1], np.zeros(rows, dtype=np.uint8))
    return tuple(np.load(path, mmap_mode="r+") for path in paths)


def _fingerprint(model: ChestXrayModel) -> str:
    """A hash (16 hex digits) of all weights and buffers below the head."""
    digest = hashlib.blake2b(digest_size=8)
    of_head = {id(value) for value in model.head.state_dict(keep_vars=True).values()}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in of_head:
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
