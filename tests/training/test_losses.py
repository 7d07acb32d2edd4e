"""The losses against their formulas, written out plainly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from cxrlib.core.errors import InputError
from cxrlib.evaluation.predictions import UNKNOWN
from cxrlib.training.config import LOSSES
from cxrlib.training.losses import make_loss, pos_weight

RNG = np.random.default_rng(0)
LOGITS = torch.tensor(RNG.normal(0, 3, (9, 14)), dtype=torch.float32)
LABELS = torch.tensor(RNG.random((9, 14)) < 0.3, dtype=torch.float32)


def by_hand(one):
    """The mean of a formula of (probability, label, column) over all values."""
    rows = [
        one(1 / (1 + math.exp(-logit)), label, column)
        for logits, labels in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
        for column, (logit, label) in enumerate(zip(logits, labels, strict=True))
    ]
    return sum(rows) / len(rows)


def test_bce():
    expected = by_hand(lambda p, y, _: -math.log(p) if y else -math.log(1 - p))
    assert make_loss("bce")(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_bce_pos_weight():
    weights = pos_weight(LABELS, cap=3.0).tolist()
    expected = by_hand(lambda p, y, column: -weights[column] * math.log(p) if y else -math.log(1 - p))
    loss = make_loss("bce_pos_weight", LABELS, pos_weight_cap=3.0)
    assert loss(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_focal():
    expected = by_hand(lambda p, y, _: -0.25 * (1 - p) ** 2 * math.log(p) if y else -0.75 * p**2 * math.log(1 - p))
    assert make_loss("focal")(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["bce", "bce_pos_weight", "focal", "asymmetric"])
def test_losses_are_linear_in_the_labels_which_mixup_mixes(name):
    loss = make_loss(name, LABELS)
    mixed = loss(LOGITS, 0.4 * LABELS + 0.6 * (1 - LABELS))
    assert mixed.item() == pytest.approx(0.4 * loss(LOGITS, LABELS).item() + 0.6 * loss(LOGITS, 1 - LABELS).item())


def test_asymmetric():
    def one(p, y, _):
        shifted = max(p - 0.05, 0)
        return -math.log(p) if y else -(shifted**4) * math.log(1 - shifted)

    assert make_loss("asymmetric")(LOGITS, LABELS).item() == pytest.approx(by_hand(one), rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [0.0, 5.0, 200.0])
def test_sure_logits_keep_loss_and_gradient_finite(name, size):
    for sign in (-size, size):
        logits = torch.full((4, 14), sign, requires_grad=True)
        loss = make_loss(name, LABELS)(logits, LABELS[:4])
        loss.backward()
        assert loss.shape == ()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_downhill_is_towards_the_labels(name):
    logits = torch.zeros(9, 14, requires_grad=True)
    make_loss(name, LABELS)(logits, LABELS).backward()
    assert ((logits.grad < 0) == (LABELS > 0.5)).all()


def test_pos_weight_is_negatives_a_positive_between_one_and_the_cap():
    labels = torch.zeros(100, 14, dtype=torch.uint8)
    labels[:20, 0] = 1  # 80 / 20 = 4
    labels[:2, 1] = 1  # 98 / 2 = 49, above the cap
    labels[:90, 2] = 1  # 10 / 90, below 1
    labels[:, 3] = 1  # no negative
    assert pos_weight(labels).tolist() == [4.0, 20.0, 1.0, 1.0, *[20.0] * 10], "nor does a finding without a positive"
    assert pos_weight(labels, cap=49.0)[1] == 49
    assert pos_weight(labels, cap=1).tolist() == [1] * 14


@given(st.integers(1, 400), st.integers(0, 400), st.floats(1, 1000))
def test_pos_weight_law(n, positives, cap):
    positives = min(positives, n)
    labels = torch.zeros(n, 14)
    labels[:positives] = 1
    expected = min(max((n - positives) / positives, 1), cap) if positives else cap
    assert pos_weight(labels, cap)[0].item() == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_used_is_refused():
    with pytest.raises(InputError, match="needs the training labels"):
        make_loss("bce_pos_weight")


@pytest.mark.parametrize("unknown", [float("nan"), UNKNOWN])
@pytest.mark.parametrize("name", LOSSES)
def test_an_unknown_label_has_no_loss_and_no_gradient(name, unknown):
    labels, known = LABELS.clone(), torch.ones(9, 14, dtype=torch.bool)
    known[2, 3] = known[4] = False
    labels[~known] = unknown
    logits = LOGITS.clone().requires_grad_()
    loss = make_loss(name, labels)(logits, labels)
    loss.backward()
    assert (logits.grad[~known] == 0).all()
    assert (logits.grad[known] != 0).any()
    assert torch.equal(make_loss(name, labels)(torch.where(known, LOGITS, 9), labels), loss)
    if name == "bce":
        expected = torch.nn.functional.binary_cross_entropy_with_logits(LOGITS[known], LABELS[known])
        assert loss.item() == pytest.approx(expected.item()), "the mean over what is known"


def test_a_batch_of_which_nothing_is_known_moves_nothing():
    logits = LOGITS.clone().requires_grad_()
    loss = make_loss("focal")(logits, torch.full((9, 14), float("nan")))
    loss.backward()
    assert loss == 0, "no number would end the training"
    assert (logits.grad == 0).all()


def test_pos_weight_counts_only_what_is_known():
    labels = torch.zeros(100, 14)
    labels[:20, 0] = 1
    labels[60:, 0] = float("nan")  # 40 / 20 = 2
    labels[:, 1] = float("nan")
    assert pos_weight(labels).tolist() == [2.0, *[20.0] * 13]
