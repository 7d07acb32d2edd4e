"""The linear probe: a head trained on its input from a frozen network, and folded back into an ordinary model."""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import set_seed
from torch import nn

from cxrlib.core import processes
from cxrlib.core.paths import one_process, write_csv, write_rows, written_whole
from cxrlib.core.progress import bar
from cxrlib.data.dataset import make_loader
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import ARCHITECTURES, ChestXrayModel, build_model, save_checkpoint
from cxrlib.models.checkpoints import digest
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import pick_device
from cxrlib.training.inference import Engine, predict
from cxrlib.training.inputs import Images, datasets, parts_to_remember, set_aside
from cxrlib.training.losses import make_loss
from cxrlib.training.optimization import start_at_prevalence

# ridge penalties on the weights of standardized features; one for all findings, as single ones have too few positives
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_PATIENCE = 2  # penalties without improvement before the weaker ones are skipped


def fit_probe(config: TrainConfig, entries: pd.DataFrame, images: Images, out: Path, progress=True) -> pd.DataFrame:
    """Train only the head on the training split and select its penalty on the validation split.

    Arguments, files and columns are those of `loop.fit`, with a penalty for an epoch (column penalty; lr is NaN). Of
    the training parameters only loss and pos_weight_cap are used; images are not augmented.
    """
    set_seed(config.seed)
    model = build_model(config.arch, config.weights, config.image_size).to(pick_device(config.device))
    train, val = datasets(config, entries, images)
    parts = parts_to_remember(config, entries)
    if processes.is_first():  # of several, which all find the same head
        set_aside(out)
    began = time.perf_counter()
    x, y = (features(model, part, 2 * config.batch_size, progress) for part in (train, val))
    speed = (len(x) + len(y)) / (time.perf_counter() - began)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    std = torch.where(std > 1e-6, std, torch.inf)  # constant features, such as dead units, become 0
    labels = train.labels.to(x.device)
    criterion = make_loss(config.loss, labels, config.pos_weight_cap)
    tried = list(_tried((x - mean) / std, (y - mean) / std, labels, val, criterion))
    best = [each for each in tried if each[0]["best"]][-1]
    history = pd.DataFrame([row for row, _, _ in tried]).assign(images_per_s=speed)
    if not processes.is_first():
        return history
    model.tta = config.tta
    for name, (row, head, _) in (("last", tried[-1]), ("best", best)):
        # folded into a head on raw features that gives the same logits; in float64, which MPS lacks
        weight, bias, centre, scale = (each.detach().cpu().double() for each in (head.weight, head.bias, mean, std))
        model.head.load_state_dict({"weight": weight / scale, "bias": bias - weight / scale @ centre})
        about = {"parts": parts, "config": config.model_dump(), "epoch": row["epoch"], "val_auroc": row["val_auroc"]}
        save_checkpoint(out / f"model_{name}.pth", model, **about)
    (predict(model, val, 2 * config.batch_size) if config.tta else best[2]).save(out / "predictions_val.npz")
    write_csv(out / "history.csv", history, index=False)
    return history


def features(model: ChestXrayModel, dataset, batch_size: int = 64, progress: bool = True) -> torch.Tensor:
    """The input of the model's head for every row of a dataset, (n, features) float32; an `ImageCache` keeps it."""
    device = next(model.parameters()).device
    cache = getattr(dataset, "cache", None)
    if cache is None:
        return torch.cat(list(_batches(model, dataset, range(len(dataset)), batch_size, progress))).to(device)
    head = f"backbone.{ARCHITECTURES[model.arch].head}."
    below = {name: value for name, value in model.state_dict().items() if not name.startswith(head)}
    path = cache.folder / f"features-{model.arch}-{digest(below)}.npy"  # a hash of the weights below the head
    rows, width = cache.rows(dataset.entries["image"]), model.head.in_features
    with one_process(path.with_suffix(".lock")):
        if not path.is_file():  # the last column is 1 where a row is written, as rows are from left to right
            shape = (len(cache.names), width + 1)
            with written_whole(path) as beside:
                np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=shape).flush()  # sparse
        stored = np.load(path, mmap_mode="r")
        missing = np.flatnonzero(stored[rows, width] == 0)
        waiting = iter(rows[missing])
        for batch in _batches(model, dataset, missing, batch_size, progress):
            marked = nn.functional.pad(batch, (0, 1), value=1.0).numpy()
            write_rows(path, stored.offset, ((int(next(waiting)), row.tobytes()) for row in marked))
        return torch.from_numpy(stored[rows, :width]).to(device)


def _tried(x, y, labels: torch.Tensor, val, criterion: Callable):
    """Yield history row, head and validation predictions of each penalty, from features of training and validation."""
    head, best, since = nn.Linear(x.shape[1], labels.shape[1]).to(x.device), -np.inf, 0
    nn.init.zeros_(head.weight)
    start_at_prevalence(head, labels)
    names, patients = (val.entries[column].to_numpy() for column in ("image", "patient"))
    for number, penalty in enumerate(PENALTIES, start=1):
        began = time.perf_counter()
        _minimize(head, x, labels, criterion, penalty)
        with torch.inference_mode():
            logits = head(y)
            losses = float(criterion(head(x), labels)), float(criterion(logits, val.labels.to(y.device)))
        predictions = Predictions(logits.sigmoid().cpu().numpy(), val.labels.numpy(), names, patients)
        auroc = float(evaluate(predictions, replicates=0).loc["macro", "auroc"])
        row = {"epoch": number, "penalty": penalty, "lr": np.nan, "train_loss": losses[0], "val_loss": losses[1]}
        row |= {"val_auroc": auroc, "seconds": time.perf_counter() - began, "best": auroc > best}
        yield row, copy.deepcopy(head), predictions
        best, since = max(best, auroc), 0 if auroc > best else since + 1
        if since == _PATIENCE:
            return


def _minimize(head: nn.Linear, x: torch.Tensor, labels: torch.Tensor, criterion: Callable, penalty: float) -> None:
    """Fit the head by L-BFGS from its current weights."""
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, tolerance_grad=1e-6,
                                  tolerance_change=1e-8, line_search_fn="strong_wolfe")  # fmt: skip

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        # the penalty is averaged over the findings, like the criterion
        loss = criterion(head(x), labels) + penalty / 2 * head.weight.square().sum() / len(head.weight)
        loss.backward()
        return loss

    optimizer.step(objective)


def _batches(model: ChestXrayModel, dataset, rows, batch_size: int, progress: bool):
    """Yield the features of rows of a dataset by batch, on the CPU."""
    loader, engine = make_loader(torch.utils.data.Subset(dataset, list(rows)), batch_size), Engine(model, len(rows))
    for images, _ in bar(loader, show=progress and len(rows) > 0, desc="features", unit=" batches", leave=False):
        yield engine(images)[1].cpu()
