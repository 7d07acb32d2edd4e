"""A model as ONNX, read by onnxruntime: the scores, probabilities and maps are ours."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from cxrlib.cli.main import main
from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.explain.export import _Graph, export
from cxrlib.explain.gradcam import grad_cam
from cxrlib.models.architectures import ARCHITECTURES, build_model, model_from_checkpoint, save_checkpoint
from cxrlib.models.checkpoints import load_checkpoint
from cxrlib.models.names import ARCHS
from cxrlib.training.inference import Engine

SIDE = 32
PLATT = Calibrator("platt", ({"slope": 1.4, "intercept": -0.3}, {}) * 7)


def images(count):
    return torch.from_numpy(np.random.default_rng(count).integers(0, 256, (count, 1, SIDE, SIDE), dtype=np.uint8))


def checkpoint(path, arch, tta=False, **fields):
    torch.manual_seed(0)
    model = build_model(arch, "none", SIDE)
    for module in model.modules():  # as after a training; with the first statistics all images would score alike
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(images(16))
    torch.nn.init.normal_(model.head.weight, std=1 / model.head.in_features**0.5)
    config = {"split": "patient", "seed": 0, "val_subset": 0, "tta": tta}
    return save_checkpoint(path, model, parts={"train": [], "val": []}, config=config, epoch=1, **fields)


@pytest.mark.parametrize("arch", ARCHS)
def test_onnxruntime_gives_our_scores_for_batches_of_any_size(arch, tmp_path, capsys):
    notes = ("not tuned: 3 positive of 109 images, fewer than 5", *[""] * 13)
    tuned = Thresholds(np.linspace(0.1, 0.9, 14), notes=notes, calibration="platt")
    weights = checkpoint(tmp_path / "m.pth", arch, calibration=PLATT.to_dict(), thresholds=tuned.to_dict())
    path = tmp_path / "m.onnx"
    assert main(["export", "--weights", str(weights), "--out", str(path)]) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(path)
    told = session.get_modelmeta().custom_metadata_map
    assert (told["arch"], told["image_size"], told["calibration"]) == (arch, str(SIDE), "platt")
    assert json.loads(told["findings"]) == list(FINDINGS)
    assert json.loads(told["thresholds"]) == [None, *tuned.values[1:].tolist()]
    model = model_from_checkpoint(load_checkpoint(weights))
    for count in (1, 5):
        found = session.run(None, {"images": images(count).numpy()})
        found = dict(zip([one.name for one in session.get_outputs()], found, strict=True))
        expected = Engine(model)(images(count))[0].numpy()
        assert np.ptp(expected, axis=0).max() > 1e-3 or count == 1, "all images alike show nothing"
        np.testing.assert_allclose(found["scores"], expected, atol=1e-4)
        np.testing.assert_allclose(found["scores"], 1 / (1 + np.exp(-found["logits"])), atol=1e-6)
        np.testing.assert_allclose(found["probabilities"], PLATT.calibrate(expected), atol=1e-4)
        assert found["features"].shape[:2] == (count, found["features"].shape[1])
        assert ("maps" in found) == ARCHITECTURES[arch].pooled
        if "maps" in found:
            bias = model.head.bias.detach().numpy()
            np.testing.assert_allclose(found["maps"].mean(axis=(2, 3)) + bias, found["logits"], atol=1e-3)
            if arch != "densenet121":
                heat = F.interpolate(torch.from_numpy(found["maps"]).relu(), size=(SIDE, SIDE), mode="bilinear")
                heat = heat / heat.amax(dim=(2, 3), keepdim=True).clamp(min=1e-9)
                np.testing.assert_allclose(heat, grad_cam(model, images(count)), atol=1e-3)


def test_of_a_model_with_test_time_averaging_the_scores_are_the_averages(tmp_path):
    weights = load_checkpoint(checkpoint(tmp_path / "m.pth", "resnet18", tta=True))
    session = onnxruntime.InferenceSession(export(weights, tmp_path / "m.onnx"))
    logits, scores, probabilities = session.run(["logits", "scores", "probabilities"], {"images": images(3).numpy()})
    expected = Engine(model_from_checkpoint(weights))(images(3))[0].numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4, err_msg="nothing is calibrated")
    assert abs(scores - 1 / (1 + np.exp(-logits))).max() > 1e-3
    assert json.loads(session.get_modelmeta().custom_metadata_map["thresholds"]) == [None] * 14


@pytest.mark.parametrize("method", ["none", "temperature", "platt", "isotonic"])
def test_calibration_in_the_graph_is_that_of_the_calibrator(method):
    rng = np.random.default_rng(0)
    knots = [[np.sort(rng.random(count)).tolist() for _ in range(2)] for count in (2, 5, 40)]
    curves = [dict(zip(("scores", "values"), pair, strict=True)) for pair in knots]
    lines = [{"slope": slope} for slope in (0.3, 1.0, 4.0)]
    sets = {"none": [{}] * 3, "temperature": lines, "platt": [one | {"intercept": -1.0} for one in lines],
            "isotonic": curves}  # fmt: skip
    calibrator = Calibrator(method, (*sets[method], *[{}] * 11))
    scores = np.concatenate([rng.random((200, 14)), [[0.0] * 14, [1.0] * 14]]).astype(np.float32)
    found = _Graph(build_model("resnet18", "none", SIDE), calibrator).calibrated(torch.from_numpy(scores)).numpy()
    np.testing.assert_allclose(found, calibrator.calibrate(scores), atol=1e-5)


def test_without_its_packages_it_is_a_sentence(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'onnxscript'")

    monkeypatch.setattr(torch.onnx, "export", missing)
    with pytest.raises(InputError, match=r"No module named 'onnxscript'\); pip install -e"):
        export(load_checkpoint(checkpoint(tmp_path / "m.pth", "resnet18")), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
