"""One training run: schedule, precision, averaged weights, checkpoints. Devices and processes are accelerate's job."""

import copy
import math
import numbers
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cxrlib.cache import ImageCache
from cxrlib.dataset import CachedDataset, ChestXrayDataset, augment, make_loader
from cxrlib.errors import InputError, nearest
from cxrlib.losses import LOSSES, make_loss
from cxrlib.metrics import evaluate
from cxrlib.models import ChestXrayModel, build_model, check_image_size, save_checkpoint
from cxrlib.paths import written_whole
from cxrlib.predictions import Predictions, predict
from cxrlib.progress import bar
from cxrlib.splits import KINDS, subset

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class TrainConfig:
    """Every parameter of a training run; the names are those of the command line, the notebooks and the profiles.

    Raises InputError for a value that cannot be used.
    """

    arch: str = "efficientnet_b0"
    weights: str = "imagenet"
    image_size: int = 224
    epochs: int = 8
    batch_size: int = 32
    lr: float = 1e-4
    loss: str = "bce"
    pos_weight_cap: float = 20.0
    weight_decay: float = 0.01
    warmup: float = 0.1
    ema_decay: float = 0.99
    augment: bool = True
    split: str = "official"
    train_subset: int = 0
    val_subset: int = 0
    seed: int = 0
    num_workers: int = 0
    device: str = "auto"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, field.type, getattr(self, field.name)))
        check_image_size(self.arch, self.image_size)
        for name, known in (("loss", LOSSES), ("split", KINDS), ("device", DEVICES), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(
                    f"{name} {value!r} is unknown; expected one of {', '.join(known)}{nearest(value, known)}"
                )
        least = {"epochs": 1, "batch_size": 1, "train_subset": 0, "val_subset": 0, "seed": 0, "num_workers": 0}
        for name, least_value in (least | {"pos_weight_cap": 1}).items():
            if not getattr(self, name) >= least_value:  # NaN, too
                raise InputError(f"{name} {getattr(self, name)} is too small; expected at least {least_value}")
        if self.seed >= 2**32:
            raise InputError(f"seed {self.seed} is too large; expected below 2**32, which is as far as numpy's go")
        for name, most in (("lr", math.inf), ("weight_decay", math.inf), ("warmup", 1), ("ema_decay", 1)):
            value = getattr(self, name)
            if not 0 <= value < most or (name == "lr" and value == 0):
                raise InputError(
                    f"{name} {value} cannot be used; expected {'above 0' if name == 'lr' else f'0 to {most}'}"
                )

    @classmethod
    def of(cls, **values) -> "TrainConfig":
        """A config of keyword arguments; an unknown name is an InputError that suggests the nearest."""
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise InputError(
                    f"unknown parameter {name!r}; expected one of {', '.join(names)}{nearest(name, names)}"
                )
        return cls(**values)


def _typed(name: str, kind: type, value):
    """`value` as plain str, bool, int or float, as a checkpoint can hold it; InputError where it is none."""
    fits = {str: (str, os.PathLike), bool: (bool, np.bool_), int: numbers.Integral, float: numbers.Real}
    if not isinstance(value, fits[kind]) or (isinstance(value, bool) and kind is not bool):
        what = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}[kind]
        hint = " (YAML takes 1e-4 for text: write 1.0e-4)" if kind is float and isinstance(value, str) else ""
        raise InputError(f"{name} {value!r} cannot be used; expected {what}{hint}")
    return kind(value)


def make_dataset(entries: pd.DataFrame, images: ImageCache | dict[str, Path], image_size: int):
    """The dataset of some entries, over the cache or (images: name -> path) straight from the PNGs."""
    if isinstance(images, ImageCache):
        if images.image_size != image_size:
            raise InputError(f"the cache holds {images.image_size} pixels a side; expected {image_size}; build it anew")
        return CachedDataset(entries, images)
    return ChestXrayDataset(entries, images, image_size)


def fit(
    config: TrainConfig,
    entries: pd.DataFrame,
    images: ImageCache | dict[str, Path],
    out: str | Path,
    progress: bool = True,
) -> pd.DataFrame:
    """Train on part "train" of the entries, choose the epoch on part "val", never look at "test".

    entries: with a column part (`split`); images: an `ImageCache` of config.image_size, or paths by name.
    Writes to `out`: model_best.pth (highest validation macro AUROC), model_last.pth, history.csv, predictions_val.npz
    (of the best epoch). Returns the history, one row an epoch: epoch, lr, train_loss, val_loss, val_auroc (macro),
    images_per_s, seconds, best. The same seed on the same machine gives the same weights. An image that would be alone
    in the last batch, which batch normalization cannot take, sits out an epoch, each epoch another one.
    Raises InputError where a part is empty or the validation labels define no AUROC.
    """
    out = Path(out)
    accelerator = _accelerator(config)
    set_seed(config.seed)
    train, val = _datasets(config, entries, images)
    alone = len(train) > 1 and len(train) % config.batch_size == 1 < config.batch_size
    loader = make_loader(train, config.batch_size, True, config.seed, config.num_workers, drop_last=alone)
    model = build_model(config.arch, config.weights, config.image_size)
    if config.weights in ("imagenet", "none"):
        start_at_prevalence(model, train.labels)
    criterion = make_loss(config.loss, train.labels, config.pos_weight_cap).to(accelerator.device)
    optimizer = torch.optim.AdamW(_groups(model, config.weight_decay), lr=config.lr, fused=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    averaged = _average_of(accelerator.unwrap_model(model), config.ema_decay)
    generator = torch.Generator().manual_seed(config.seed + accelerator.process_index)
    steps, step, rows = config.epochs * len(loader), 0, []

    for epoch in range(1, config.epochs + 1):
        began = time.perf_counter()
        shown = bar(loader, show=progress and accelerator.is_main_process, leave=False,
                    desc=f"epoch {epoch}/{config.epochs}", unit=" batches")  # fmt: skip
        seen, total = 0, 0.0
        model.train()
        for x, labels in shown:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, config)
            x = augment(x, generator=generator) if config.augment else x
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                logits = model(x)
            loss = criterion(logits.float(), labels)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            averaged.update_parameters(accelerator.unwrap_model(model))
            step, seen, total = step + 1, seen + len(x), total + float(loss.detach()) * len(x)
            shown.set_postfix(loss=f"{total / seen:.4f}")
        speed = seen * accelerator.num_processes / (time.perf_counter() - began)

        predictions = predict(averaged.module, val, accelerator=accelerator, batch_size=2 * config.batch_size)
        auroc = evaluate(predictions, replicates=0).loc["macro", "auroc"]
        rows.append(
            {
                "epoch": epoch,
                "lr": learning_rate(step - 1, steps, config),
                "train_loss": total / seen,
                "val_loss": _loss_of(predictions, criterion),
                "val_auroc": auroc,
                "images_per_s": speed,
                "seconds": time.perf_counter() - began,
                "best": not rows or auroc > max(row["val_auroc"] for row in rows),
            }
        )
        if accelerator.is_main_process:
            _save_epoch(out, averaged.module, config, entries, rows, predictions)
    accelerator.wait_for_everyone()
    return pd.DataFrame(rows)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up over the share `warmup` of all steps, then a cosine down to a hundredth of `lr`."""
    warm = max(1, round(config.warmup * steps))
    if step < warm:
        return config.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def start_at_prevalence(model: ChestXrayModel, labels: torch.Tensor) -> None:
    """Set the head's bias to the log-odds of each finding among labels (n, 14): what is rare need not be learned."""
    share = labels.mean(dim=0).clamp(1e-3, 1 - 1e-3)
    with torch.no_grad():
        model.head.bias.copy_(torch.logit(share))


def _datasets(config: TrainConfig, entries: pd.DataFrame, images: ImageCache | dict[str, Path]):
    datasets = []
    for part, size in (("train", config.train_subset), ("val", config.val_subset)):
        chosen = subset(entries, part, size, config.seed)
        if chosen.empty:
            raise InputError(f"the part {part!r} holds no image; expected some (look at the split and at img_root)")
        datasets.append(make_dataset(chosen, images, config.image_size))
    positives = datasets[1].labels.mean(dim=0)
    if not ((positives > 0) & (positives < 1)).any():
        raise InputError(f"no finding has positives and negatives among the {len(datasets[1])} validation images, so "
                         "no epoch can be chosen; enlarge val_subset")  # fmt: skip
    return datasets


def pick_device(device: str = "auto") -> str:
    """The device asked for; "auto" is cuda, else mps, else cpu. Raises InputError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not there.get(device):
        raise InputError(f"device {device!r} was asked for and is not there; use device=auto or device=cpu")
    return device


def _accelerator(config: TrainConfig) -> Accelerator:
    device = pick_device(config.device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:  # a notebook may train on another device than before
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device == "cpu")


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices and kernels, none for biases and normalization layers."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights, that follows faster in the first steps; decay 0 copies them."""

    @torch.no_grad()
    def average(means: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count))) if decay else 1.0
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, current, share)
        else:
            torch._foreach_copy_(means, current)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def _loss_of(predictions: Predictions, criterion: nn.Module) -> float:
    logits = torch.logit(torch.from_numpy(predictions.scores), eps=1e-6)
    labels = torch.from_numpy(predictions.labels).float()
    return float(copy.deepcopy(criterion).cpu()(logits, labels))


def _save_epoch(
    out: Path,
    model: ChestXrayModel,
    config: TrainConfig,
    entries: pd.DataFrame,
    rows: list[dict],
    predictions: Predictions,
) -> None:
    content = {
        "parts": {part: sorted(entries.loc[entries["part"] == part, "image"]) for part in ("train", "val")},
        "config": asdict(config),
        "epoch": rows[-1]["epoch"],
        "val_auroc": float(rows[-1]["val_auroc"]),
    }
    out.mkdir(parents=True, exist_ok=True)
    if rows[-1]["best"]:
        save_checkpoint(out / "model_best.pth", model, **content)
        predictions.save(out / "predictions_val.npz")
    save_checkpoint(out / "model_last.pth", model, **content)
    with written_whole(out / "history.csv") as beside:
        pd.DataFrame(rows).to_csv(beside, index=False)
