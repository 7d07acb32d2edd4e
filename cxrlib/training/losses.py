"""Losses on logits: binary cross-entropy, plain or class-weighted, focal and asymmetric; all return the mean."""

import torch
from torch import nn
from torch.nn import functional as F

from cxrlib.core.errors import InputError, nearest
from cxrlib.training.config import LOSSES


def make_loss(name: str, labels: torch.Tensor | None = None, pos_weight_cap: float = 20.0) -> nn.Module:
    """The loss `name`, a module from logits (b, 14) and labels (b, 14), 0 or 1, to a scalar.

    "bce": binary cross-entropy. "bce_pos_weight": positives of a finding are weighted by negatives / positives, at most
    by `pos_weight_cap`; needs the training `labels` (n, 14). "focal": gamma 2, alpha 0.25 (Lin et al. 2017).
    "asymmetric": gamma 0 for positives, 4 for negatives, margin 0.05 (Ridnik et al. 2021).
    """
    if name not in LOSSES:
        raise InputError(f"unknown loss {name!r}; expected one of {', '.join(LOSSES)}{nearest(name, LOSSES)}")
    if name == "bce_pos_weight":
        if labels is None:
            raise InputError("the loss bce_pos_weight needs the training labels; expected (n, 14) of 0 and 1")
        return nn.BCEWithLogitsLoss(pos_weight=pos_weight(labels, pos_weight_cap))
    return {"bce": nn.BCEWithLogitsLoss, "focal": FocalLoss, "asymmetric": AsymmetricLoss}[name]()


def pos_weight(labels: torch.Tensor, cap: float = 20.0) -> torch.Tensor:
    """Negatives per positive for each finding, between 1 and `cap`: (n, 14) labels to (14,) weights.

    Without the cap, the weight of Hernia would be about 500. A finding without positives has the weight `cap`.
    """
    if not cap >= 1:  # also refuses NaN
        raise InputError(f"pos_weight_cap {cap} is below 1; expected the most that a positive may count")
    positives = labels.float().sum(dim=0)
    return torch.where(positives > 0, (len(labels) - positives) / positives, cap).clamp(1, cap)


class FocalLoss(nn.Module):
    """Cross-entropy times alpha_t (1 - p_t)^gamma, which down-weights easy examples (Lin et al. 2017)."""

    def __init__(self, gamma: float = 2.0, alpha: float = 0.25):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of logits (b, 14) for labels (b, 14) in [0, 1]."""
        score = logits.sigmoid()
        positive = labels * self.alpha * (1 - score) ** self.gamma * F.logsigmoid(logits)
        negative = (1 - labels) * (1 - self.alpha) * score**self.gamma * F.logsigmoid(-logits)
        return -(positive + negative).mean()  # linear in the labels, as mixup needs


class AsymmetricLoss(nn.Module):
    """Focal loss with a gamma per class; negatives below `margin` have no weight (Ridnik et al. 2021)."""

    def __init__(self, gamma_positive: float = 0.0, gamma_negative: float = 4.0, margin: float = 0.05):
        super().__init__()
        self.gamma_positive, self.gamma_negative, self.margin = gamma_positive, gamma_negative, margin

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of logits (b, 14) for labels (b, 14) in [0, 1]."""
        score = logits.sigmoid()
        shifted = (score - self.margin).clamp(min=0)
        positive = labels * (1 - score) ** self.gamma_positive * F.logsigmoid(logits)
        negative = (1 - labels) * shifted**self.gamma_negative * torch.log1p(-shifted.clamp(max=1 - 1e-6))
        return -(positive + negative).mean()
