"""What a training step is made of besides the loss: learning rates by step and depth, dropout, averaged weights."""

import copy
import math

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from cxrlib.core.errors import InputError
from cxrlib.models.architectures import ChestXrayModel
from cxrlib.training.config import TrainConfig

DEPTHS = 8  # steps in which the learning rate falls from the head to the first layer


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


class EMA:
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
