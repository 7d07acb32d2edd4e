"""Heat maps: equal to an independent implementation, right by hand, at the right place; the model stays as it was."""

import captum.attr
import pytest
import torch
from torch import nn

from cxrlib.errors import InputError
from cxrlib.findings import FINDINGS
from cxrlib.gradcam import grad_cam, head_gradients
from cxrlib.models import ARCHITECTURES, ChestXrayModel, build_model

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


def densenet_forward(model):
    """DenseNet without the ReLU in place, which would change what captum has kept."""
    net = model.backbone

    def forward(x):
        grid = net.features(((x - model.mean) / model.std).contiguous(memory_format=torch.channels_last))
        return net.classifier(grid.clone().relu().mean(dim=(2, 3)))

    return forward


# ---- the same as elsewhere -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", CNNS, indirect=True)  # captum's Grad-CAM reads channels, not ViT's tokens
def test_equal_to_captum_before_normalization(model):
    x = images()
    activations, gradients = head_gradients(model, x)
    ours = torch.einsum("bkc,bchw->bkhw", gradients.mean(dim=(3, 4)), activations).relu()
    forward = densenet_forward(model) if model.arch == "densenet121" else model
    peer = captum.attr.LayerGradCam(forward, model.cam_layer)
    chosen = [0, 3, 5, 10, 13]
    theirs = [peer.attribute(x.float() / 255, target=k, relu_attributions=True)[:, 0].detach() for k in chosen]
    assert max(map(torch.max, theirs)) > 1e-3, "maps of zeros would agree with anything"
    torch.testing.assert_close(ours[:, chosen], torch.stack(theirs, dim=1), atol=1e-4, rtol=1e-4)


def test_maps_are_the_enlarged_and_scaled_grid(model):
    x = images()
    activations, gradients = head_gradients(model, x)
    coarse = (gradients.mean(dim=(3, 4), keepdim=True) * activations[:, None]).sum(dim=2).relu()
    large = nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    maps = grad_cam(model, x)
    assert maps.shape == (2, len(FINDINGS), SIDE, SIDE)
    assert maps.dtype == torch.float32
    highest = large.amax(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(maps * highest, large, atol=1e-5 * float(large.max()), rtol=1e-4)
    assert ((maps.amax(dim=(2, 3)) == 1) == (highest[:, :, 0, 0] > 0)).all()
    assert maps.min() >= 0


def test_the_layer_of_the_registry_has_the_last_grid(model):
    activations, _ = head_gradients(model, images(1))
    grid = {"vgg16": 4, "vit_b_16": 4}.get(model.arch, 2)  # of 64 pixels: a 16th, or a 32nd
    assert activations.shape[-2:] == (grid, grid)


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
    maps = grad_cam(model, torch.zeros(1, 1, 3, 3))[0]
    first = torch.tensor([[1.0, 0, 3], [0, 5, 0], [7, 0, 9]])
    second = torch.tensor([[0.0, 2, 0], [4, 0, 6], [0, 8, 0]])
    torch.testing.assert_close(maps[0], first / 9)
    torch.testing.assert_close(maps[1], second / 8)
    assert not maps[2].any()
    torch.testing.assert_close(maps[3], first / 9)
    activations, gradients = head_gradients(model, torch.zeros(1, 1, 3, 3))
    assert activations.shape == (1, 2, 3, 3)
    assert gradients.shape == (1, 14, 2, 3, 3)


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
@pytest.mark.parametrize(("height", "width"), [(35, 35), (56, 56), (63, 28), (224, 224), (28, 105)])
@pytest.mark.parametrize("cell", [(1, 5), (3, 3), (5, 2)])
def test_the_peak_is_at_the_centre_of_the_cell(height, width, cell):
    grid, (i, j) = 7, cell
    high, wide = height // grid, width // grid
    x = torch.zeros(1, 1, height, width)
    x[0, 0, i * high : (i + 1) * high, j * wide : (j + 1) * wide] = 1
    heat = grad_cam(Tiny(grid), x)[0, 0]
    assert heat.shape == (height, width)
    rows, columns = torch.nonzero(heat > heat.max() - 1e-5).float().mean(dim=0)
    assert float(rows) == pytest.approx((i + 0.5) * height / grid - 0.5, abs=1e-3)
    assert float(columns) == pytest.approx((j + 0.5) * width / grid - 0.5, abs=1e-3)


def test_another_layer_gives_its_own_grid(resnet):
    activations, _ = head_gradients(resnet, images(1), resnet.backbone.layer2)
    assert activations.shape == (1, 128, 8, 8)
    fine, coarse = grad_cam(resnet, images(1), resnet.backbone.layer2), grad_cam(resnet, images(1))
    assert not torch.allclose(fine, coarse)


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


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_switched_off(resnet, mode):
    expected = grad_cam(resnet, images(1))
    with mode():
        maps = grad_cam(resnet, images(1))
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
