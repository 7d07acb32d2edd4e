"""Losses on logits: binary cross-entropy, plain or class-weighted, focal and asymmetric.

All return the mean over the known labels. A label that is unknown (NaN, or UNKNOWN of `Predictions`) has no loss and no
gradient, nor has a label that mixup mixed from an unknown one.
"""

from collections.abc import Callable
from functools import partial, wraps

import torch
from torch.nn import functional as F

from cxrlib.core.errors import InputError, nearest
from cxrlib.training.config import LOSSES


def _over_known(elementwise: Callable) -> Callable:
    """The mean over the known labels of a loss that gives one value per label."""

    @wraps(elementwise)
    def loss(logits: torch.Tensor, labels: torch.Tensor, **options) -> torch.Tensor:
        known = labels <= 1  # neither NaN nor UNKNOWN
        values = elementwise(logits, torch.where(known, labels, 0), **options)
        return torch.where(known, values, 0).sum() / known.sum().clamp(min=1)

    return loss


def make_loss(name: str, labels: torch.Tensor | None = None, pos_weight_cap: float = 20.0) -> Callable:
    """The loss `name`, a function of logits (b, 14) and labels (b, 14), 0, 1 or unknown, that returns a scalar.

    "bce": binary cross-entropy. "bce_pos_weight": positives of a finding are weighted by negatives / positives, at most
    by `pos_weight_cap`; needs the training `labels` (n, 14), on the device of the logits. "focal" and "asymmetric": see
    the functions of these names.
    """
    if name not in LOSSES:
        raise InputError(f"unknown loss {name!r}; expected one of {', '.join(LOSSES)}{nearest(name, LOSSES)}")
    if name == "bce_pos_weight":
        if labels is None:
            raise InputError("the loss bce_pos_weight needs the training labels; expected (n, 14) of 0 and 1")
        return partial(_bce, pos_weight=pos_weight(labels, pos_weight_cap))
    return {"bce": _bce, "focal": focal, "asymmetric": asymmetric}[name]


def pos_weight(labels: torch.Tensor, cap: float = 20.0) -> torch.Tensor:
    """Negatives per positive for each finding, between 1 and `cap`: (n, 14) labels to (14,) weights.

    Without the cap, the weight of Hernia would be about 500. A finding without positives has the weight `cap`. Unknown
    labels count as neither.
    """
    if not cap >= 1:  # also refuses NaN
        raise InputError(f"pos_weight_cap {cap} is below 1; expected the most that a positive may count")
    positives, negatives = ((labels == label).sum(dim=0) for label in (1, 0))
    return torch.where(positives > 0, negatives / positives, cap).clamp(1, cap)


@_over_known
def _bce(logits: torch.Tensor, labels: torch.Tensor, pos_weight: torch.Tensor | None = None) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=pos_weight, reduction="none")


@_over_known
def focal(logits: torch.Tensor, labels: torch.Tensor, gamma: float = 2.0, alpha: float = 0.25) -> torch.Tensor:
    """Mean cross-entropy times alpha_t (1 - p_t)^gamma, which down-weights easy examples (Lin et al. 2017)."""
    score = logits.sigmoid()
    positive = labels * alpha * (1 - score) ** gamma * F.logsigmoid(logits)
    negative = (1 - labels) * (1 - alpha) * score**gamma * F.logsigmoid(-logits)
    return -(positive + negative)  # linear in the labels, as mixup needs


@_over_known
def asymmetric(
    logits: torch.Tensor, labels: torch.Tensor, gamma: tuple[float, float] = (0.0, 4.0), margin: float = 0.05
) -> torch.Tensor:
    """Mean focal loss with a gamma for positives and one for negatives (Ridnik et al. 2021).

    Negatives with a score below `margin` have no weight.
    """
    score = logits.sigmoid()
    shifted = (score - margin).clamp(min=0)
    positive = labels * (1 - score) ** gamma[0] * F.logsigmoid(logits)
    negative = (1 - labels) * shifted ** gamma[1] * torch.log1p(-shifted.clamp(max=1 - 1e-6))
    return -(positive + negative)
