"""Learning rates by step and depth, initial bias, dropout, and averaged weights."""

import copy
import math

import torch
from torch import nn

from cxrlib.core.errors import InputError
from cxrlib.models.architectures import ChestXrayModel
from cxrlib.training.config import TrainConfig

_DEPTHS = 8  # levels of the learning rate between the first layer and the head


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up over the fraction `warmup` of the steps, then cosine decay to a hundredth of `lr`."""
    warm = max(1, round(config.warmup * steps))
    if step < warm:
        return config.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(model: ChestXrayModel, config: TrainConfig) -> list[dict]:
    """The parameter groups for AdamW, each with its `scale`, the factor on the learning rate.

    It is 1 at the head and falls geometrically to `depth_lr` at the first layer, whose features are the most general
    (Howard and Ruder 2018). Biases and normalization layers have no weight decay.
    """
    groups, head = {}, list(model.head.parameters())
    body = [parameter for parameter in model.parameters() if not any(parameter is one for one in head)]
    for place, parameter in enumerate([*body, *head]):  # from the first layer on
        depth = min(_DEPTHS * place // len(body), _DEPTHS)
        scale = config.depth_lr ** (1 - depth / _DEPTHS)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        new = {"params": [], "weight_decay": decay, "scale": scale, "head": depth == _DEPTHS}
        groups.setdefault((depth, decay), new)["params"].append(parameter)
    return list(groups.values())


def start_at_prevalence(head: nn.Linear, labels: torch.Tensor) -> None:
    """Set the bias of the head to the log-odds of each finding's prevalence among the known labels of (n, 14)."""
    share = labels.nanmean(dim=0).nan_to_num(0.5).clamp(1e-3, 1 - 1e-3)
    with torch.no_grad():
        head.bias.copy_(torch.logit(share))


def strengthen_dropout(model: ChestXrayModel, strength: float) -> None:
    """Raise the keep probability of dropout and stochastic depth to a power; InputError where there is none."""
    names = ("p", "drop_prob", "drop_rate")  # torch and torchvision; timm
    places = [(module, name) for module in model.modules() for name in names if getattr(module, name, 0)]
    if not places and strength not in (0, 1):
        raise InputError(f"drop_strength {strength:g} changes nothing: {model.arch} has no dropout; expected 1")
    for module, name in places:
        setattr(module, name, 1 - (1 - getattr(module, name)) ** strength)


class EMA:
    """The exponential moving average of a model's weights and buffers, whose decay is reduced in the first steps."""

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Include the weights after update `step` (from 0); the first are copied."""
        share = 1 - min(self.decay, (1 + step) / (10 + step)) if self.decay and step else 1.0
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        smooth = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_(*map(list, zip(*smooth, strict=True)), share)
        for mine, other in pairs:
            if not mine.is_floating_point():
                mine.copy_(other)
