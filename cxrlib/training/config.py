"""The recipe of a training run: every parameter with its default, the learning rates, the averaged weights.

The defaults of the parts that can be switched on and off were chosen by an ablation on a small data set; its table,
with intervals, stands in notebook 04.
"""

import copy
import math
import numbers
import os
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from cxrlib.core.errors import InputError, nearest
from cxrlib.data.splits import KINDS
from cxrlib.models.architectures import ChestXrayModel, check_image_size
from cxrlib.training.losses import LOSSES

DEPTHS = 8  # steps in which the learning rate falls from the head to the first layer
_CHOICES = {
    "mode": ("full", "probe"),
    "loss": LOSSES,
    "split": KINDS,
    "device": ("auto", "cpu", "cuda", "mps"),
    "precision": ("auto", "fp32", "bf16"),
    "layout": ("auto", "channels_last", "contiguous"),
    "tracker": ("none", "tensorboard"),
}
# name -> (least, most), both allowed but for those named after it
_RANGES = {
    "lr": (0, math.inf),
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "pos_weight_cap": (1, math.inf),
    "head_epochs": (0, math.inf),
    "patience": (0, math.inf),
    "train_subset": (0, math.inf),
    "val_subset": (0, math.inf),
    "num_workers": (0, math.inf),
    "seed": (0, 2**32 - 1),  # as far as numpy's go
    "weight_decay": (0, math.inf),
    "augment": (0, 3),
    "mixup": (0, 1),
    "drop_strength": (0, 5),
    "warmup": (0, 1),
    "ema_decay": (0, 1),
    "depth_lr": (0, 1),
    "save_minutes": (0, math.inf),
}
_BELOW = ("warmup", "ema_decay")  # their upper limit is not allowed: nothing would be learned
_ABOVE = ("lr", "depth_lr")  # nor the lower one of these


@dataclass(frozen=True)
class TrainConfig:
    """Every parameter of a training run; the names are those of the command line, the notebooks and the profiles.

    Raises InputError for a value that cannot be used.
    """

    arch: str = "efficientnet_b0"
    weights: str = "imagenet"
    mode: str = "full"
    image_size: int = 224
    epochs: int = 8
    batch_size: int = 32
    lr: float = 3e-4
    head_epochs: int = 0
    depth_lr: float = 1.0
    loss: str = "bce"
    pos_weight_cap: float = 20.0
    weight_decay: float = 0.01
    warmup: float = 0.1
    ema_decay: float = 0.99
    augment: float = 1.0
    mixup: float = 0.0
    drop_strength: float = 1.0
    tta: bool = False
    patience: int = 0
    split: str = "official"
    train_subset: int = 0
    val_subset: int = 0
    seed: int = 0
    num_workers: int = 0
    device: str = "auto"
    precision: str = "auto"
    layout: str = "auto"
    resume: bool = False
    save_minutes: float = 5.0
    tracker: str = "none"

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, field.type, getattr(self, field.name)))
        check_image_size(self.arch, self.image_size)
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise InputError(
                    f"{name} {value!r} is unknown; expected one of {', '.join(known)}{nearest(value, known)}"
                )
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            inside = least < value if name in _ABOVE else least <= value  # neither is true of NaN
            inside &= value < most if name in _BELOW or most == math.inf else value <= most
            if not inside:
                above, below = "above" if name in _ABOVE else "at least", "below" if name in _BELOW else "at most"
                limits = f"{above} {least}" + (f" and {below} {most}" if most < math.inf else "")
                raise InputError(f"{name} {value} cannot be used; expected {limits}")

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


def asked_for(config: TrainConfig) -> dict:
    """The parameters that the weights of a run depend on; the others may change where it goes on."""
    free = ("resume", "save_minutes", "tracker", "num_workers")
    return {name: value for name, value in asdict(config).items() if name not in free}


def _typed(name: str, kind: type, value):
    """`value` as plain str, bool, int or float, as a checkpoint can hold it; InputError where it is none."""
    fits = {str: (str, os.PathLike), bool: (bool, np.bool_), int: numbers.Integral, float: numbers.Real}
    if not isinstance(value, fits[kind]) or (isinstance(value, bool) and kind is not bool):
        what = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}[kind]
        hint = " (YAML takes 1e-4 for text: write 1.0e-4)" if kind is float and isinstance(value, str) else ""
        raise InputError(f"{name} {value!r} cannot be used; expected {what}{hint}")
    return kind(value)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up over the share `warmup` of all steps, then a cosine down to a hundredth of `lr`."""
    warm = max(1, round(config.warmup * steps))
    if step < warm:
        return config.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(model: ChestXrayModel, config: TrainConfig) -> list[dict]:
    """The parameters in groups for AdamW, each with its weight_decay and `scale`, the factor on the learning rate.

    scale: 1 at the head, falling geometrically to `depth_lr` at the first layer: what the first layers see, edges and
    textures, is the same in photographs and radiographs (Howard and Ruder 2018). Weight decay: for matrices and
    kernels, not for biases and normalization layers.
    """
    groups = {}
    head = {id(parameter) for parameter in model.head.parameters()}
    body = [parameter for parameter in model.parameters() if id(parameter) not in head]  # from first layer to last
    for place, parameter in enumerate([*body, *model.head.parameters()]):
        depth = DEPTHS if id(parameter) in head else DEPTHS * place // len(body)
        scale = config.depth_lr ** (1 - depth / DEPTHS)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        group = groups.setdefault((depth, decay), {"params": [], "weight_decay": decay, "scale": scale})
        group["params"].append(parameter)
        group["head"] = depth == DEPTHS
    return list(groups.values())


def start_at_prevalence(model: ChestXrayModel, labels: torch.Tensor) -> None:
    """Set the head's bias to the log-odds of each finding among labels (n, 14): what is rare need not be learned."""
    share = labels.mean(dim=0).clamp(1e-3, 1 - 1e-3)
    with torch.no_grad():
        model.head.bias.copy_(torch.logit(share))


def strengthen_dropout(model: ChestXrayModel, strength: float) -> None:
    """Apply the architecture's own dropout and stochastic depth `strength` times: what each keeps to that power.

    0 switches both off, 1 leaves them; 2 makes of 0.2 dropped 0.36, and of any share one that still is below 1.
    Raises InputError where the architecture has neither and strength is not 1.
    """
    places = [(module, "p") for module in model.modules() if isinstance(module, (nn.Dropout, StochasticDepth))]
    places += [(module, name) for module in model.modules() for name in ("drop_prob", "drop_rate")]  # what timm has
    places = [(module, name) for module, name in places if getattr(module, name, 0)]
    if not places and strength != 1:
        raise InputError(f"drop_strength {strength:g} changes nothing: {model.arch} has no dropout; expected 1")
    for module, name in places:
        setattr(module, name, 1 - (1 - getattr(module, name)) ** strength)


class Average:
    """The exponential moving average of a model's weights and buffers, which is what is evaluated and saved.

    decay: of the average, lower in the first steps, so that it leaves the start behind; 0 copies the model.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights of update number `step`, from 0; the first is copied."""
        share = 1 - min(self.decay, (1 + step) / (10 + step)) if self.decay and step else 1.0
        ours, theirs = self.model.state_dict().values(), model.state_dict().values()
        smooth = [pair for pair in zip(ours, theirs, strict=True) if pair[0].is_floating_point()]
        torch._foreach_lerp_(*map(list, zip(*smooth, strict=True)), share)
        for mine, other in zip(ours, theirs, strict=True):
            if not mine.is_floating_point():
                mine.copy_(other)
