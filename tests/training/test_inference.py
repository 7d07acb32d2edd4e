"""The engine gives what the model gives; whoever scores, measures or reads features leaves a model in its mode."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from cxrlib.data.dataset import shifted
from cxrlib.models.architectures import build_model
from cxrlib.models.names import ARCHS
from cxrlib.training import inference
from cxrlib.training.inference import Engine, predict
from cxrlib.training.inputs import make_dataset
from cxrlib.training.probe import features

CALLS = {
    "predict": lambda model, dataset: predict(model, dataset, 4),
    "features": lambda model, dataset: features(model, dataset, 4),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_the_mode_is_left_as_it_was(call, training, entries, cache):
    model = build_model("mobilenet_v2", "none", 32).train(training)
    frozen = model.backbone.features[0].eval()
    before = [layer.training for layer in model.modules()]
    CALLS[call](model, make_dataset(entries.head(8), cache, 32))
    assert [layer.training for layer in model.modules()] == before
    assert not frozen.training


@pytest.mark.parametrize("call", ["predict", "features"])
def test_the_mode_is_left_as_it_was_after_an_error(call, entries, cache, monkeypatch):
    model = build_model("mobilenet_v2", "none", 32).train()
    monkeypatch.setattr(model.backbone, "forward", None)
    with pytest.raises(TypeError):
        CALLS[call](model, make_dataset(entries.head(8), cache, 32))
    assert all(layer.training for layer in model.modules())


def drawn(arch: str, side: int = 32) -> nn.Module:
    """A model in evaluation mode whose batch normalization has seen images, so that scores differ between images."""
    torch.manual_seed(0)
    model = build_model(arch, "none", side).train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        model(torch.rand(16, 1, side, side))
    nn.init.normal_(model.head.weight, std=0.2)
    return model.eval()


def by_the_model(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and head inputs, as one forward pass of the model itself gives them."""
    seen = []
    with torch.inference_mode(), model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        return model(images).sigmoid(), seen[0]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("arch", ARCHS)
def test_an_engine_gives_the_scores_and_features_of_the_model(arch, many, monkeypatch):
    if many:
        pytest.importorskip("onnxruntime")
        monkeypatch.setattr(inference, "_MANY", 1)
    model = drawn(arch)
    images = torch.randint(0, 256, (9, 1, 32, 32), dtype=torch.uint8)
    engine = Engine(model, images=len(images))
    assert (engine._session is not None) == (many and arch != "vgg16"), "the way is the one that this test is about"
    for given in (images, images[:1], images[:3].float() / 255):
        (scores, features), (its_scores, its_features) = engine(given), by_the_model(model, given)
        torch.testing.assert_close(scores, its_scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(features, its_features, atol=1e-3 * float(its_features.abs().max()), rtol=0)
    scores, _ = engine(images)
    assert float(scores.std(dim=0).max()) > 1e-3, "images differ in their scores"


def test_the_views_are_averaged_and_the_features_are_of_the_image_itself():
    model = drawn("mobilenet_v2", 64)
    model.tta = True
    images = torch.randint(0, 256, (3, 1, 64, 64), dtype=torch.uint8)
    scores, features = Engine(model)(images)
    expected = torch.stack([by_the_model(model, view)[0] for view in shifted(images)]).mean(dim=0)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features, by_the_model(model, images)[1], atol=1e-5, rtol=1e-5)


def test_where_onnxruntime_gets_no_network_the_scores_are_the_same(monkeypatch):
    model, images = drawn("mobilenet_v2"), torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    monkeypatch.setattr(inference, "_MANY", 1)
    monkeypatch.delattr(torch.onnx, "export")
    with pytest.warns(UserWarning, match="slower: .*has no attribute 'export'"):
        engine = Engine(model, 3)
    torch.testing.assert_close(engine(images)[0], by_the_model(model, images)[0])


def test_an_engine_leaves_the_threads_of_others_alone():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        Engine(drawn("mobilenet_v2"))(torch.zeros(16, 1, 32, 32, dtype=torch.uint8))
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
