"""Sanity and faithfulness: a map of what is learned changes with the weights; what matters moves the score first."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from cxrlib.explain.faithfulness import (
    areas,
    perturbation,
    randomized,
    rank_correlation,
    sanity,
    structural_similarity,
)  # fmt: skip
from cxrlib.models.architectures import build_model


def images(n=4, side=32):
    return torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("resnet18", "none", 32).eval()


# ---- sanity ----------------------------------------------------------------------------------------------------------
def test_weights_become_random_from_the_head_down_and_keep_their_values(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = nn.Conv2d | nn.Linear
    layers = [name for name, layer in model.backbone.named_modules() if isinstance(layer, kinds)]
    changed_in, names = [], []
    for name, copied in randomized(model, images(), steps=4):
        weights = {layer: copied.backbone.get_submodule(layer).weight for layer in layers}
        own = {layer: model.backbone.get_submodule(layer).weight for layer in layers}
        changed_in.append({layer for layer in layers if not torch.equal(weights[layer], own[layer])})
        names.append(name)
        assert all(torch.equal(weights[layer].flatten().sort()[0], own[layer].flatten().sort()[0]) for layer in layers)
    assert names[:2] == ["none", "fc"]
    assert names[-1] == "conv1"
    assert [len(changed) for changed in changed_in[:2]] == [0, 1]
    assert all(few < more for few, more in pairwise(changed_in))
    assert changed_in[-1] == set(layers)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "a copy is changed"
    assert not model.training


def test_maps_start_alike_and_stop_being(model):
    table = sanity(model, images(side=64), [0, 1, 2, 3], steps=3, layer="layer3")
    assert table["step"].unique().tolist() == [0, 1, 2, 3]
    by_step = table.groupby("step")[["rank", "structure"]].mean()
    assert by_step.loc[0].tolist() == pytest.approx([1, 1])
    assert (by_step.loc[1:, "rank"] < 0.9).all()
    assert table["rank"].notna().mean() > 0.8, "the signal must not die on the way"
    again = sanity(model, images(side=64), [0, 1, 2, 3], steps=3, layer="layer3")
    assert again.equals(table), "the same seed"


def test_likeness_of_maps():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 24, 24), dtype=np.float32)
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlation(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(rank_correlation(a, a**3), 1)
    np.testing.assert_allclose(structural_similarity(a, a), 1)
    assert (structural_similarity(a, 1 - a) < 0).all()
    assert np.isnan(rank_correlation(a, np.zeros_like(a))).all()
    assert np.isnan(structural_similarity(np.zeros_like(a), a)).all()


# ---- faithfulness ----------------------------------------------------------------------------------------------------
class Corner(nn.Module):
    """Finding 0 is the mean of the upper left quarter; finding 1 that of the other quarters."""

    def forward(self, x):
        mean = x.mean(dim=(1, 2, 3)) * 4
        corner = x[:, :, :20, :20].mean(dim=(1, 2, 3))
        return torch.stack([corner, mean - corner, *[0 * corner] * 12], dim=1) * 4


@pytest.fixture
def bright():
    """White upper left quarter on black; the right map of finding 0."""
    x = torch.zeros(2, 1, 40, 40)
    x[:, :, :20, :20] = 1
    x += 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    right = np.zeros((2, 40, 40), np.float32)
    right[:, :20, :20] = 1
    return x.clamp(0, 1), right


def test_curves_start_and_end_at_the_two_pictures(bright):
    curves = perturbation(Corner(), *bright, [0, 0], steps=4)
    assert len(curves) == 2 * 2 * 2 * 5
    ends = curves.set_index(["kind", "order", "image", "share"])["score"].sort_index()
    whole = torch.sigmoid(Corner()(bright[0])[:, 0]).tolist()
    for order in ("map", "random"):
        assert [ends["deletion", order, n, 0.0] for n in (0, 1)] == pytest.approx(whole)
        assert [ends["insertion", order, n, 1.0] for n in (0, 1)] == pytest.approx(whole)
        assert ends["deletion", order, 0, 1.0] == pytest.approx(ends["insertion", order, 0, 0.0])


class Edges(nn.Module):
    """Finding 0 is how rough the upper left quarter is, which blurring takes away."""

    def forward(self, x):
        rough = (x[:, :, :20, 1:20] - x[:, :, :20, :19]).abs().mean(dim=(1, 2, 3))
        return torch.stack([10 * rough, *[0 * rough] * 13], dim=1)


def test_the_right_map_is_more_faithful_than_chance_and_the_wrong_one_less():
    x = torch.rand(3, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    right = np.zeros((3, 40, 40), np.float32)
    right[:, :20, :20] = 1
    gains = [
        areas(perturbation(Edges(), x, heat, [0] * 3)).groupby("kind")["gain"].mean() for heat in (right, 1 - right)
    ]
    assert (gains[0] > 0.02).all()
    assert (gains[1] < 0).all()


def test_area_by_hand():
    draw = np.random.default_rng(0)
    x, heat = draw.random((1, 1, 40, 40), np.float32), draw.random((1, 40, 40), np.float32)
    curves = perturbation(Edges(), torch.from_numpy(x), heat, [0], steps=2)
    deletion, insertion = (row for _, row in areas(curves).set_index("kind").iterrows())
    scores = curves[(curves["kind"] == "deletion") & (curves["order"] == "map")]["score"].to_numpy()
    assert deletion["map"] == pytest.approx((scores[0] + 2 * scores[1] + scores[2]) / 4)
    assert deletion["gain"] == pytest.approx(deletion["random"] - deletion["map"])
    assert insertion["gain"] == pytest.approx(insertion["map"] - insertion["random"])
