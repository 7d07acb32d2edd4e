"""Several models of one split as one file: what each has seen is remembered, and strangers are refused."""

import numpy as np
import pytest
import torch

from cxrlib.core.errors import InputError
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.models.architectures import build_model, save_checkpoint
from cxrlib.models.checkpoints import load_checkpoint, load_ensemble, write_checkpoint

SEEN = {"train": ["00000001_000.png", "00000002_000.png"], "val": ["00000003_000.png"]}


@pytest.fixture
def model(tmp_path):
    """Write a checkpoint of an untrained network that has seen the given images."""
    network = build_model("mobilenet_v2", "none", 32)

    def write(name, parts=SEEN, split="patient", **fields):
        config = {"split": split, "seed": 0, "val_subset": 0}
        return save_checkpoint(tmp_path / name, network, parts=parts, config=config, epoch=1, **fields)

    return write


def test_an_ensemble_is_one_file_that_remembers_what_each_has_seen(model, tmp_path):
    more = {"train": [*SEEN["train"], "00000004_000.png"], "val": SEEN["val"]}
    files = [model("a.pth", split="official"), model("b.pth", more, split="official")]
    tuned = Thresholds(np.full(14, 0.3)).to_dict()
    path = load_ensemble(files).save(tmp_path / "e.pth", [None, None], tuned)
    assert torch.load(path, weights_only=True)["parts"] == more, "the union"
    again = load_ensemble([path])
    assert again.parts == more
    assert again.thresholds == tuned
    assert list(again.members) == [f"{path} (1)", f"{path} (2)"]
    for member, file in zip(again.members.values(), files, strict=True):
        state = load_checkpoint(file)["state_dict"]
        assert all(torch.equal(value, state[name]) for name, value in member["state_dict"].items())
    with pytest.raises(InputError, match="is an ensemble of 2 models; expected a single model"):
        load_checkpoint(path)
    assert len(load_ensemble([path, model("c.pth", split="official")]).members) == 3
    assert load_ensemble([path, files[0]]).thresholds is None, "those of two are not those of three"


@pytest.mark.parametrize(
    ("split", "other", "message"),
    [
        (
            "patient",
            {"train": [*SEEN["train"], "00000003_001.png"], "val": []},
            r"b.pth learned from 1 patients that .*a.pth holds",
        ),
        ("patient", {"train": [*SEEN["train"], "00000004_000.png"], "val": SEEN["val"]}, "(such as 00000004)"),
        ("patient", {"train": SEEN["train"], "val": ["00000004_000.png"]}, "learned from 1 patients"),
        ("image", {"train": [*SEEN["train"], "00000001_001.png"], "val": SEEN["val"]}, "learned from 1 images"),
        ("official", {"train": SEEN["val"], "val": SEEN["train"]}, "learned from 2 patients"),
    ],
)
def test_a_model_that_has_seen_what_another_holds_out_is_refused(model, tmp_path, split, other, message):
    ensemble = load_ensemble([model("a.pth", split=split), model("b.pth", other, split=split)])
    with pytest.raises(InputError, match=message):
        ensemble.save(tmp_path / "e.pth")
    assert not (tmp_path / "e.pth").exists()


def test_other_visits_of_patients_that_both_know_are_no_stranger(model):
    later = {"train": ["00000001_007.png", "00000002_000.png"], "val": ["00000003_004.png"]}
    assert len(load_ensemble([model("a.pth"), model("b.pth", later)]).parts["train"]) == 3


def test_what_does_not_belong_together_is_refused(model, tmp_path):
    one, other = model("a.pth"), model("b.pth", split="official")
    with pytest.raises(InputError, match="of the splits official, patient; expected models of one split"):
        load_ensemble([one, other]).save(tmp_path / "e.pth")
    with pytest.raises(InputError, match=r"a.pth is given twice"):
        load_ensemble([one, f"{one.parent}/./{one.name}"])
    with pytest.raises(InputError, match="no checkpoint is given"):
        load_ensemble([])


@pytest.mark.parametrize("members", [None, [], "ab", [1, 2], {"a": 1}])
@pytest.mark.parametrize("thresholds", [None, [0.5]])
def test_a_file_with_other_members_is_refused(model, tmp_path, members, thresholds):
    path = load_ensemble([model("a.pth"), model("b.pth")]).save(tmp_path / "e.pth")
    good = torch.load(path, weights_only=True)
    with pytest.raises(InputError, match=r"e.pth (has unusable members or thresholds|lacks arch)"):
        load_ensemble([write_checkpoint(path, good | {"members": members, "thresholds": thresholds})])
    broken = [good["members"][0], good["members"][1] | {"image_size": 10**9}]
    with pytest.raises(InputError, match="unusable image_size"):
        load_ensemble([write_checkpoint(path, good | {"members": broken})])
