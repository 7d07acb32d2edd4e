"""Losses on logits, means over the known labels: an unknown one (NaN, UNKNOWN) has no loss and no gradient."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from cxrlib.core.errors import InputError


def make_loss(name: str, labels: torch.Tensor | None = None, pos_weight_cap: float = 20.0) -> Callable:
    """The loss `name`, a function of logits (b, 14) and labels (b, 14), 0, 1 or unknown, that returns a scalar.

    "bce_pos_weight" weights positives by `pos_weight` of the training `labels` (n, 14), on the device of the logits.
    """
    bce = partial(F.binary_cross_entropy_with_logits, reduction="none")
    if name == "bce_pos_weight":
        if labels is None:
            raise InputError("the loss bce_pos_weight needs the training labels; expected (n, 14) of 0 and 1")
        bce = partial(bce, pos_weight=pos_weight(labels, pos_weight_cap))
    each = {"bce": bce, "bce_pos_weight": bce, "focal": _focal, "asymmetric": _asymmetric}[name]

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known = labels <= 1  # neither NaN nor UNKNOWN, nor mixed from one of them
        values = each(logits, torch.where(known, labels, 0))
        return torch.where(known, values, 0).sum() / known.sum().clamp(min=1)

    return loss


def pos_weight(labels: torch.Tensor, cap: float = 20.0) -> torch.Tensor:
    """Negatives per positive for each finding, from 1 to `cap` (no positive): (n, 14) labels to (14,) weights."""
    positives, negatives = ((labels == label).sum(dim=0) for label in (1, 0))
    return torch.where(positives > 0, negatives / positives, cap).clamp(1, cap)


def _focal(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy times alpha_t (1 - p_t)^2, which down-weights easy examples (Lin et al. 2017)."""
    score = logits.sigmoid()
    positive = labels * 0.25 * (1 - score) ** 2 * F.logsigmoid(logits)
    negative = (1 - labels) * 0.75 * score**2 * F.logsigmoid(-logits)
    return -(positive + negative)  # linear in the labels, as mixup needs


def _asymmetric(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Gamma 0 for positives and 4 for negatives, of which scores below 0.05 have no weight (Ridnik et al. 2021)."""
    shifted = (logits.sigmoid() - 0.05).clamp(min=0)
    positive = labels * F.logsigmoid(logits)
    negative = (1 - labels) * shifted**4 * torch.log1p(-shifted.clamp(max=1 - 1e-6))
    return -(positive + negative)
