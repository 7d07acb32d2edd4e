"""Images that are not like those of training: refused or flagged by what the checkpoint keeps of these."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cxrlib.cli.main import main
from cxrlib.core.errors import InputError
from cxrlib.course.opening import open_data
from cxrlib.data.cache import build_cache
from cxrlib.data.splits import split
from cxrlib.explain.prediction import Predictor
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
from cxrlib.phantom.generate import make_phantoms
from cxrlib.training.config import TrainConfig
from cxrlib.training.familiarity import Familiarity
from cxrlib.training.loop import fit

SIDE = 64
QUICK = TrainConfig(arch="efficientnet_lite0", mode="probe", image_size=SIDE, split="patient", device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the files of a training on phantoms, those of its test part by name, entries and cache."""
    folder = tmp_path_factory.mktemp("familiar")
    data = open_data("", make_phantoms(folder / "set", n_patients=90, size=SIDE, workers=1, progress=False))
    entries = split(data.entries, "patient")
    cache = build_cache(data.images, SIDE, cache_dir=folder / "cache", progress=False)
    fit(QUICK, entries, cache, folder / "run", progress=False)
    test = [data.images[name] for name in entries.loc[entries["part"] == "test", "image"]]
    return folder / "run", test, entries, cache


@pytest.fixture
def strange(trained, tmp_path):
    """Files of what is no upright frontal radiograph, ten of each kind."""
    rng = np.random.default_rng(0)
    for number, path in enumerate(trained[1][:10]):
        grey = np.asarray(Image.open(path).convert("L"))
        kinds = {"left": np.rot90(grey), "right": np.rot90(grey, 3), "under": grey[::-1, ::-1], "inverted": 255 - grey,
                 "part": grey[10:42, 20:52], "blank": np.full((SIDE, SIDE), 25 * number, np.uint8),
                 "noise": rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)}  # fmt: skip
        for kind, pixels in kinds.items():
            Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{kind}{number}.png")
    return tmp_path


def predicted(weights, files, **options):
    return list(Predictor(weights, "cpu", **options).predict(files))


def warned(case):
    return any(text.startswith("unlike the radiographs") for text in case.warnings)


def test_strange_images_are_refused_with_the_reason_and_test_images_are_not(trained, strange):
    run, test, *_ = trained
    cases = predicted([run / "model_best.pth"], sorted(strange.glob("*.png")))
    reasons = {kind: [case.error for case in cases if case.path.name.startswith(kind)]
               for kind in ("left", "right", "under", "inverted", "part", "blank", "noise")}  # fmt: skip
    known = predicted([run / "model_best.pth"], test)
    assert len(known) > 25
    assert np.mean([bool(case.error) or warned(case) for case in known]) < 0.1
    for kind, said in (("left", "turned to the left"), ("right", "turned to the right"), ("under", "upside down"),
                       ("inverted", "an inverted")):  # fmt: skip
        assert sum(said in reason for reason in reasons[kind]) >= 9, kind
    assert all("is refused: no upright frontal chest radiograph" in reason for reason in reasons["blank"])
    for kind in ("noise", "part"):  # with so few training images these are sometimes only flagged
        assert sum(bool(case.error) or warned(case) for case in cases if case.path.name.startswith(kind)) >= 9, kind
    refused = next(case for case in cases if case.error)
    assert refused.scores is None
    assert refused.images[0].shape == (SIDE, SIDE), "the picture can be shown with the reason"


def test_force_predicts_with_a_warning(trained, strange, tmp_path, capsys):
    weights, file = str(trained[0] / "model_best.pth"), str(strange / "under0.png")
    command = ["predict", file, "--weights", weights, "--out", str(tmp_path / "out"), "--device", "cpu", "--json"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert "--force predicts it" in json.loads(out)["error"]
    assert "1 of 1 images are not predicted" in err
    assert "is refused" in (tmp_path / "out" / "predictions.html").read_text()
    assert main([*command, "--force"]) == 0
    case = json.loads(capsys.readouterr().out)
    assert "upside down" in case["warnings"][-1]
    assert len(case["findings"]) == 14


def test_both_checkpoints_keep_it_as_tensors_and_a_comparison_does_without(trained, tmp_path):
    run, _, entries, cache = trained
    one, other = (torch.load(run / f"model_{name}.pth", weights_only=True)["familiarity"] for name in ("best", "last"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sum(value.numel() * value.element_size() for value in one.values()) < 1 << 20
    fit(QUICK, entries, cache, tmp_path, progress=False, familiarity=False)
    assert load_checkpoint(tmp_path / "model_best.pth")["familiarity"] is None


def test_a_finished_training_that_was_cut_off_before_it_gets_it_on_resume(trained, tmp_path):
    _, _, entries, cache = trained
    config = QUICK.replace(mode="full", epochs=1, train_subset=60, resume=True)
    fit(config, entries, cache, tmp_path, progress=False, familiarity=False)
    before = load_checkpoint(tmp_path / "model_best.pth")["state_dict"]
    fit(config, entries, cache, tmp_path, progress=False)
    after = load_checkpoint(tmp_path / "model_best.pth")
    assert after["familiarity"] is not None
    assert all(torch.equal(before[name], after["state_dict"][name]) for name in before)


def test_of_several_models_all_must_refuse(trained, strange, tmp_path):
    best = trained[0] / "model_best.pth"
    content = load_checkpoint(best)
    anything = content["familiarity"] | {"limits": torch.full((2, 2), 1e9)}
    tolerant = write_checkpoint(tmp_path / "tolerant.pth", content | {"familiarity": anything})
    silent = write_checkpoint(tmp_path / "silent.pth", content | {"familiarity": None})
    [case] = predicted([best, tolerant], [strange / "under0.png"])
    assert not case.error
    assert "upside down" in case.warnings[-1]
    assert predicted([best, silent], [strange / "under0.png"])[0].error
    assert "no record" in predicted([silent], [strange / "under0.png"])[0].warnings[-1]


def test_too_few_images_to_fit_leave_it_out(trained, tmp_path):
    _, _, entries, cache = trained
    fit(QUICK.replace(train_subset=15), entries, cache, tmp_path, progress=False)
    assert load_checkpoint(tmp_path / "model_best.pth")["familiarity"] is None


@pytest.mark.parametrize("bad", [{"centre": torch.zeros(3)}, {"more": torch.zeros(1)}, {"limits": torch.zeros(2)}])
def test_another_models_record_is_one_sentence(trained, bad):
    fitted = load_checkpoint(trained[0] / "model_best.pth")["familiarity"]
    with pytest.raises(InputError, match="does not fit its model"):
        Familiarity(fitted | bad, fitted["mean"].numel())


def test_a_record_that_is_no_numbers_is_no_checkpoint(trained, tmp_path):
    content = load_checkpoint(trained[0] / "model_best.pth")
    for bad in ("text", {"mean": 1.0}, {"mean": torch.tensor([float("nan")])}):
        path = write_checkpoint(tmp_path / "bad.pth", content | {"familiarity": bad})
        with pytest.raises(InputError, match="expected a checkpoint"):
            load_checkpoint(path)
