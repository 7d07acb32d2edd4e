"""Whoever is asked to score, measure or read features leaves a model in the mode in which it was given."""

import pytest
import torch

from cxrlib.models.architectures import build_model
from cxrlib.training.costs import gflop, images_per_second
from cxrlib.training.inference import predict
from cxrlib.training.inputs import make_dataset
from cxrlib.training.probe import features

CALLS = {
    "predict": lambda model, dataset: predict(model, dataset, 4),
    "features": lambda model, dataset: features(model, dataset, 4),
    "gflop": lambda model, _: gflop(model),
    "images_per_second": lambda model, _: images_per_second(model, 2, "fp32", "contiguous", torch.device("cpu")),
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


@pytest.mark.parametrize("call", ["predict", "features", "gflop"])
def test_the_mode_is_left_as_it_was_after_an_error(call, entries, cache, monkeypatch):
    model = build_model("mobilenet_v2", "none", 32).train()
    monkeypatch.setattr(model.backbone, "forward", None)
    with pytest.raises(TypeError):
        CALLS[call](model, make_dataset(entries.head(8), cache, 32))
    assert all(layer.training for layer in model.modules())
