"""Heat maps: equal to independent implementations, right by hand, at the right place; the model stays as it was."""

from contextlib import contextmanager

import captum.attr
import numpy as np
import pytest
import pytorch_grad_cam
import torch
from hypothesis import given, settings, strategies as st
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.explain.gradcam import METHODS, grad_cam, raw_maps
from cxrlib.models.architectures import ARCHITECTURES, ChestXrayModel, build_model

SIDE = 64
CNNS = [arch for arch in ARCHITECTURES if arch != "vit_b_16"]


def images(n=2, side=SIDE, seed=1):
    return torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request) -> ChestXrayModel:
    """Random weights whose batch norms have seen data: with those of the first moment activations vanish on the way."""
    torch.manual_seed(0)
    model = build_model(request.param, "none", SIDE)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images(8, seed=0))
    return model.eval()


@pytest.fixture(scope="module")
def resnet() -> ChestXrayModel:
    torch.manual_seed(0)
    return build_model("resnet18", "none", SIDE).eval()


class Tiny(nn.Module):
    """One channel, pooled to a g x g grid; the logit of finding k is the grid's mean, times `sign[k]`."""

    arch = "tiny"

    def __init__(self, grid=7, sign=None):
        super().__init__()
        self.pool, self.cam_layer = nn.AdaptiveAvgPool2d(grid), nn.Conv2d(1, 1, 1, bias=False)
        self.spare, self.drop = nn.Conv2d(1, 1, 1), nn.Dropout(0.5)
        nn.init.ones_(self.cam_layer.weight)
        self.sign = torch.ones(14) if sign is None else sign

    def forward(self, x):
        return self.drop(self.cam_layer(self.pool(x)).mean(dim=(2, 3))) * self.sign


class Tokens(nn.Module):
    """Known tokens (1, 1 + g * g, c) and a head of known slopes (14, 1 + g * g, c)."""

    arch = "tokens"

    def __init__(self, tokens, slopes):
        super().__init__()
        self.cam_layer, self.tokens, self.slopes = nn.Identity(), nn.Parameter(tokens), slopes

    def forward(self, x):
        return torch.einsum("btc,ktc->bk", self.cam_layer(self.tokens.expand(len(x), -1, -1)), self.slopes)


class Peer(nn.Module):
    """The same function, and for DenseNet without the ReLU in place, which would change what the peers have kept."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        if self.model.arch != "densenet121":
            return self.model(x)
        net = self.model.backbone
        grid = net.features(((x - self.model.mean) / self.model.std).contiguous(memory_format=torch.channels_last))
        return net.classifier(grid.clone().relu().mean(dim=(2, 3)))


@contextmanager
def steep(model, factor):
    """The logits `factor` times as steep. A peer adds 1e-6 to a denominator, which must be small beside gradients^2."""
    with torch.no_grad():
        model.head.weight.mul_(factor)
    yield
    with torch.no_grad():
        model.head.weight.div_(factor)


# ---- the same as elsewhere -------------------------------------------------------------------------------------------
CHOSEN = [0, 5, 13]


@pytest.mark.parametrize("model", CNNS, indirect=True)  # captum's Grad-CAM reads channels, not ViT's tokens
def test_equal_to_captum_before_normalization(model):
    x = images()
    [ours] = raw_maps(model, x)
    peer = captum.attr.LayerGradCam(Peer(model), model.cam_layer)
    theirs = [peer.attribute(x.float() / 255, target=k)[:, 0].detach() for k in CHOSEN]
    assert max(map(torch.max, theirs)) > 1e-3, "maps of zeros would agree with anything"
    torch.testing.assert_close(ours[:, CHOSEN], torch.stack(theirs, dim=1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", CNNS, indirect=True)
@pytest.mark.parametrize(
    ("method", "peer"),
    [
        ("gradcam", pytorch_grad_cam.GradCAM),
        ("gradcam++", pytorch_grad_cam.GradCAMPlusPlus),
        ("layercam", pytorch_grad_cam.LayerCAM),
    ],
)
def test_equal_to_pytorch_grad_cam_on_the_grid(model, method, peer):
    x = images()
    with steep(model, 1000):
        ours = raw_maps(model, x, method=method)[0][:, CHOSEN].relu()
        with peer(Peer(model), [model.cam_layer]) as cam:
            cam.get_target_width_height = lambda _: None  # leave the grid as it is: OpenCV would enlarge it
            theirs = [cam(x.float() / 255, [ClassifierOutputTarget(k)] * len(x)) for k in CHOSEN]
    theirs = torch.from_numpy(np.stack(theirs, axis=1))  # from 0 to 1
    low, high = ours.amin(dim=(2, 3), keepdim=True), ours.amax(dim=(2, 3), keepdim=True)
    assert (theirs.amax(dim=(2, 3)) > 0.99).any(), "maps of zeros would agree with anything"
    torch.testing.assert_close(theirs * (high - low), ours - low, atol=1e-4 * float(high.max()), rtol=1e-4)


def test_maps_are_the_enlarged_and_scaled_grid(model):
    x = images()
    [raw] = raw_maps(model, x)
    large = nn.functional.interpolate(raw.relu(), size=(SIDE, SIDE), mode="bilinear")
    maps = grad_cam(model, x)
    assert maps.shape == (2, len(FINDINGS), SIDE, SIDE)
    assert maps.dtype == torch.float32
    highest = large.amax(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(maps * highest, large, atol=1e-5 * float(large.max()), rtol=1e-4)
    assert ((maps.amax(dim=(2, 3)) == 1) == (highest[:, :, 0, 0] > 0)).all()
    assert maps.min() >= 0


def test_the_layers_of_the_registry_have_finer_and_finer_grids(model):
    last = {"vgg16": 4, "vit_b_16": 4}.get(model.arch, 2)  # of 64 pixels: a 16th, or a 32nd
    expected = [4, 4, 4] if model.arch == "vit_b_16" else [4 * last, 2 * last, last]
    grids = raw_maps(model, images(1), ARCHITECTURES[model.arch].cam_layers)
    assert [grid.shape for grid in grids] == [(1, 14, side, side) for side in expected]
    torch.testing.assert_close(grids[-1], raw_maps(model, images(1))[0])


def test_one_image_alone_gives_the_map_it_has_in_a_batch(resnet):
    x = images(3)
    torch.testing.assert_close(grad_cam(resnet, x)[1:2], grad_cam(resnet, x[1:2]), atol=1e-4, rtol=1e-4)


def test_bytes_and_unit_floats_give_the_same_map(resnet):
    x = images(1)
    torch.testing.assert_close(grad_cam(resnet, x), grad_cam(resnet, x.float() / 255))


def test_tokens_by_hand():
    tokens = torch.tensor([[[100.0, 100.0], [1, 0], [0, 2], [3, 0], [0, 4], [5, 0], [0, 6], [7, 0], [0, 8], [9, 0]]])
    slopes = torch.zeros(14, 10, 2)
    slopes[:, 0] = 1000  # the class token's slope must not count
    slopes[0, 1:, 0] = 1  # finding 0: channel 0 speaks for it
    slopes[1, 3, 1] = 9  # finding 1: channel 1, by one token: mean slope 1
    slopes[2, 1:] = -1  # finding 2: everything speaks against it
    slopes[3, 1:, 0], slopes[3, 1:, 1] = 2, -1  # finding 3: both channels
    model = Tokens(tokens, slopes)
    image = torch.zeros(1, 1, 3, 3)
    maps = grad_cam(model, image)[0]
    first = torch.tensor([[1.0, 0, 3], [0, 5, 0], [7, 0, 9]])
    second = torch.tensor([[0.0, 2, 0], [4, 0, 6], [0, 8, 0]])
    torch.testing.assert_close(maps[0], first / 9)
    torch.testing.assert_close(maps[1], second / 8)
    assert not maps[2].any()
    torch.testing.assert_close(maps[3], first / 9)
    assert torch.equal(raw_maps(model, image)[0][0, 3], 2 * first - second)


def test_the_other_methods_by_hand():
    """Two channels, [[1, 3], [0, 0]] and [[0, 0], [2, 4]]; their gradients differ from place to place."""
    tokens = torch.tensor([[[50.0, 50], [1, 0], [3, 0], [0, 2], [0, 4]]])
    slopes = torch.zeros(14, 5, 2)
    slopes[:, 0] = 1000
    slopes[0, 1:] = torch.tensor([[2.0, 0], [-5, 0], [0, 1], [0, 0]])
    model, image = Tokens(tokens, slopes), torch.zeros(1, 1, 2, 2)
    assert torch.equal(raw_maps(model, image, method="layercam")[0][0, 0], torch.tensor([[2.0, 0], [2, 0]]))
    first = 2**2 / (2 * 2**2 + (1 + 3) * 2**3) * 2  # alpha * relu(gradient), at the one place with a positive gradient
    second = 1**2 / (2 * 1**2 + (2 + 4) * 1**3) * 1
    expected = torch.tensor([[first * 1, first * 3], [second * 2, second * 4]])
    torch.testing.assert_close(raw_maps(model, image, method="gradcam++")[0][0, 0], expected)
    assert not raw_maps(model, image, method="gradcam++")[0][0, 1:].any()
    everything = raw_maps(model, image, method="activation")[0][0]
    assert torch.equal(everything, torch.tensor([[0.5, 1.5], [1, 2]]).expand(14, 2, 2))


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_layers_is_that_asked_for(resnet, method):
    fine, coarse = resnet.backbone.layer2, resnet.backbone.layer4
    both = raw_maps(resnet, images(1), [coarse, "layer2"], method)
    torch.testing.assert_close(both[0], raw_maps(resnet, images(1), coarse, method)[0])
    torch.testing.assert_close(both[1], raw_maps(resnet, images(1), fine, method)[0], atol=1e-6, rtol=1e-3)


def test_fused_layers_are_averaged_after_scaling(resnet):
    x, layers = images(2), ["layer2", "layer4"]
    fused = grad_cam(resnet, x, layers)
    mean = (grad_cam(resnet, x, "layer2") + grad_cam(resnet, x, "layer4")) / 2
    highest = mean.amax(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(fused * highest, mean, atol=1e-5, rtol=1e-3)
    assert (fused.amax(dim=(2, 3)) == 1)[highest[:, :, 0, 0] > 0].all()


# ---- range -----------------------------------------------------------------------------------------------------------
def test_zero_where_nothing_speaks_for_the_finding():
    sign = torch.ones(14)
    sign[4] = -1
    maps = grad_cam(Tiny(sign=sign), images(2))
    assert not maps[:, 4].any()
    assert maps.isfinite().all()
    assert (maps[:, [0, 13]].amax(dim=(2, 3)) == 1).all()
    assert not grad_cam(Tiny(), torch.zeros(1, 1, SIDE, SIDE)).any()


def test_very_small_activations_still_reach_one():
    x = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model = Tiny()
    nn.init.constant_(model.cam_layer.weight, 1e-30)
    torch.testing.assert_close(grad_cam(model, x)[0, 0].max(), torch.tensor(1.0))


# ---- geometry --------------------------------------------------------------------------------------------------------
@settings(max_examples=40)
@given(data=st.data(), grid=st.integers(3, 9), high=st.integers(1, 12), wide=st.integers(1, 12),
       method=st.sampled_from([*METHODS]))  # fmt: skip
def test_the_peak_is_at_the_centre_of_the_cell(data, grid, high, wide, method):
    """Inner cells; at the image's edge a map is flat from the outer cells' centres outwards."""
    i, j = data.draw(st.tuples(*[st.integers(1, grid - 2)] * 2))
    height, width = grid * high, grid * wide
    x = torch.zeros(1, 1, height, width)
    x[0, 0, i * high : (i + 1) * high, j * wide : (j + 1) * wide] = 1
    heat = grad_cam(Tiny(grid), x, method=method)[0, 0]
    assert heat.shape == (height, width)
    row, column = torch.nonzero(heat > heat.max() - 1e-5).float().mean(dim=0)
    assert float(row) == pytest.approx((i + 0.5) * height / grid - 0.5, abs=1e-3)
    assert float(column) == pytest.approx((j + 0.5) * width / grid - 0.5, abs=1e-3)


# ---- nothing is left behind ------------------------------------------------------------------------------------------
def hooks(model):
    return [hook for module in model.modules() for hook in (*module._forward_hooks.values(),
                                                            *module._backward_hooks.values())]  # fmt: skip


def test_mode_gradients_and_hooks_are_as_before(resnet):
    resnet.train()
    resnet.backbone.bn1.eval()  # frozen by whoever fine-tunes
    before = [module.training for module in resnet.modules()]
    statistics = resnet.backbone.layer4[0].bn1.running_mean.clone()
    resnet.head.weight.grad = torch.full_like(resnet.head.weight, 3.0)
    try:
        grad_cam(resnet, images(1))
        assert [module.training for module in resnet.modules()] == before
        assert torch.equal(resnet.backbone.layer4[0].bn1.running_mean, statistics)
        assert (resnet.head.weight.grad == 3).all()
        assert resnet.backbone.conv1.weight.grad is None
        assert not hooks(resnet)
        assert torch.is_grad_enabled()
    finally:
        resnet.head.weight.grad = None
        resnet.eval()


def test_dropout_is_off_even_while_training():
    model = Tiny().train()
    assert (grad_cam(model, images(1)).amax(dim=(2, 3)) == 1).all()
    assert model.training
    assert model.drop.training


def test_an_error_on_the_way_leaves_nothing_behind(resnet):
    resnet.train()
    try:
        with pytest.raises(RuntimeError):
            grad_cam(resnet, torch.zeros(1, 5, SIDE, SIDE))
        assert not hooks(resnet)
        assert resnet.training
        with torch.no_grad(), pytest.raises(InputError):
            grad_cam(resnet, images(1), resnet.head)  # after the hook has switched recording on
        assert not hooks(resnet)
        assert resnet.training
    finally:
        resnet.eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_switched_off(resnet, mode, method):
    layers = ARCHITECTURES["resnet18"].cam_layers
    expected = grad_cam(resnet, images(1), layers, method)
    with mode():
        maps = grad_cam(resnet, images(1), layers, method)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(maps, expected)
    assert not maps.requires_grad


def test_frozen_weights_give_the_same_map(resnet):
    expected = grad_cam(resnet, images(1))
    resnet.requires_grad_(False)
    try:
        torch.testing.assert_close(grad_cam(resnet, images(1)), expected)
    finally:
        resnet.requires_grad_(True)


# ---- refused ---------------------------------------------------------------------------------------------------------
def test_a_layer_of_another_model_is_refused(resnet):
    with pytest.raises(InputError, match="Conv2d is not part of this resnet18"):
        grad_cam(resnet, images(1), Tiny().cam_layer)
    with pytest.raises(InputError, match="not part of this tiny"):
        grad_cam(model := Tiny(), images(1), model.spare)  # its own, but not passed


def test_an_empty_container_is_not_taken_for_no_layer(resnet):
    with pytest.raises(InputError, match="not part of this"):
        grad_cam(resnet, images(1), nn.Sequential())


def test_a_layer_without_a_grid_is_refused(resnet):
    with pytest.raises(InputError, match=r"\(1, 14\), which has no grid"):
        grad_cam(resnet, images(1), resnet.head)
    five = torch.ones(1, 6, 2)
    with pytest.raises(InputError, match="no grid"):
        grad_cam(Tokens(five, torch.ones(14, 6, 2)), torch.zeros(1, 1, 8, 8))
    torch.manual_seed(0)
    vit = build_model("vit_b_16", "none", 32)
    with pytest.raises(InputError, match="gives no tensor"):
        grad_cam(vit, images(1, 32), vit.backbone.encoder.layers[0].self_attention)


def test_unknown_names_are_refused_with_the_nearest(resnet):
    with pytest.raises(InputError, match=r"unknown method 'grad_cam\+\+'; expected one of gradcam, gradcam\+\+"):
        grad_cam(resnet, images(1), method="grad_cam++")
    with pytest.raises(InputError, match="resnet18 has no layer 'layer5'; expected one such as layer2"):
        grad_cam(resnet, images(1), "layer5")


@pytest.mark.parametrize("method", METHODS)
def test_the_map_of_one_finding_per_image_is_that_of_all_fourteen(resnet, method):
    images = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    asked = torch.tensor([5, 0, 13])
    every = grad_cam(resnet, images, ["layer3", "layer4"], method)
    one = grad_cam(resnet, images, ["layer3", "layer4"], method, findings=asked)
    assert torch.allclose(one[:, 0], every[range(3), asked], atol=1e-6)
    assert not torch.allclose(one[:, 0], every[:, 1], atol=1e-3) or method == "activation"
