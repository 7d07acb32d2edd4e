"""Sanity and faithfulness: a map of what is learned changes with the weights; what matters moves the score first."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from cxrlib.explain import faithfulness
from cxrlib.explain.faithfulness import areas, perturbation, randomized, sanity
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
    findings = np.arange(4)
    findings.flags.writeable = False  # as a column of pandas, of which torch may not take the memory
    table = sanity(model, images(side=64), findings, steps=3, layer="layer3")
    assert table["step"].unique().tolist() == [0, 1, 2, 3]
    by_step = table.groupby("step")["rank"].mean()
    assert by_step[0] == pytest.approx(1)
    assert (by_step[1:] < 0.9).all()
    assert table["rank"].notna().mean() > 0.8, "the signal must not die on the way"
    again = sanity(model, images(side=64), [0, 1, 2, 3], steps=3, layer="layer3")
    assert again.equals(table), "the same seed"


def test_likeness_is_spearmans_correlation_and_undefined_for_an_empty_map(model, monkeypatch):
    drawn = torch.rand(3, 4, 14, 32, 32, generator=torch.Generator().manual_seed(0)).round(decimals=2)
    drawn[2] = drawn[0] ** 3
    drawn[1, 0] = 0
    following = iter(drawn)
    monkeypatch.setattr(faithfulness, "grad_cam", lambda model, images, findings: next(following)[range(4), findings])
    table = sanity(model, images(), [0, 1, 2, 3], steps=2).set_index(["step", "image"])["rank"]
    expected = [spearmanr(drawn[0, k, k].ravel(), drawn[1, k, k].ravel()).statistic for k in (1, 2, 3)]
    np.testing.assert_allclose(table[1], [np.nan, *expected], rtol=1e-6)
    np.testing.assert_allclose(table[[0, 2]], 1, rtol=1e-3)


# ---- faithfulness ----------------------------------------------------------------------------------------------------
class Fake(nn.Module):
    def __init__(self, device="cpu"):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, device=device))


class Corner(Fake):
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


class Edges(Fake):
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


@pytest.mark.parametrize("value", [0, 0.7])
def test_a_flat_map_gains_nothing(value):
    x = torch.rand(3, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    curves = perturbation(Edges(), x, np.full((3, 40, 40), value, np.float32), [0] * 3, steps=5)
    assert areas(curves)["gain"].abs().max() < 1e-6


def test_where_a_map_is_flat_its_order_is_drawn_by_the_seed():
    """Half of the map is flat; which of its pixels come first changes with the seed and does not follow the rows."""
    x = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    heat = np.zeros((1, 40, 40), np.float32)
    heat[:, 20:] = np.linspace(0.5, 1, 800).reshape(20, 40)
    scores = []
    for seed in (0, 0, 1):
        curves = perturbation(Edges(), x, heat, [0], steps=4, seed=seed).query("kind == 'deletion' and order == 'map'")
        scores.append(curves["score"].tolist())
    first, again, other = np.array(scores)
    assert (first == again).all()
    assert (first[:3] == other[:3]).all(), "the lower half has one order"
    assert first[3] != other[3]


def test_curves_are_means_over_several_orders():
    x = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    heat = np.random.default_rng(0).random((1, 40, 40), np.float32)
    spread = []
    for orders in (1, 8):
        tables = [areas(perturbation(Edges(), x, heat, [0], 4, seed, orders)) for seed in range(12)]
        assert all(len(table) == 2 for table in tables)
        assert len({round(table["map"][0], 9) for table in tables}) == 1, "a map without ties has one order"
        spread.append(np.std([table["random"][0] for table in tables]))
    assert spread[1] < 0.6 * spread[0]


# ---- the model ------------------------------------------------------------------------------------------------------
class Elsewhere(Fake):
    """A model on another device, which refuses pictures on the CPU; its answer comes from that device."""

    def forward(self, x):
        assert x.device == self.weight.device
        return torch.zeros(len(x), 14)


def test_pictures_go_to_the_models_device(model, bright):
    curves = perturbation(Elsewhere("meta"), *bright, [0, 0], steps=2)
    assert (curves["score"] == 0.5).all()
    other = copy.deepcopy(model).to("meta")
    assert [changed.mean.device.type for _, changed in randomized(other, images(), steps=3)] == ["meta"] * 4


def test_the_model_stays_in_the_mode_in_which_it_was(model):
    model = copy.deepcopy(model).train()
    model.backbone.bn1.eval()  # frozen by whoever fine-tunes
    before = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    table = perturbation(model, images(), np.zeros((4, 32, 32), np.float32), [0] * 4, steps=2)
    sanity(model, images(), [0] * 4, steps=2)
    assert [module.training for module in model.modules()] == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    expected = perturbation(model.eval(), images(), np.zeros((4, 32, 32), np.float32), [0] * 4, steps=2)
    assert table.equals(expected), "scores are those of the evaluation mode"
