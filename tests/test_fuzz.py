"""Whatever lies in a file, a reader gives a result or our own error with a sentence: never a traceback.

Random bytes, and real files with bytes flipped, cut, doubled and joined. `make test` tries 500 files; the slow run
(`make test ARGS="-m slow tests/test_fuzz.py"`) tries 10,000.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from cxrlib.core.errors import InputError
from cxrlib.core.paths import PROFILES
from cxrlib.course.notebooks import check_parameters, read_profile
from cxrlib.course.runs import RunFolder
from cxrlib.data.doctor.check import check_dataset, read_header
from cxrlib.data.findings import FINDINGS
from cxrlib.data.images import read_radiograph
from cxrlib.data.metadata import read_boxes, read_entries, read_expert_labels, read_lists
from cxrlib.evaluation.calibration import Calibrator, operating_points
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.models.architectures import model_from_checkpoint
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint

# words that mean something to one of the readers
TOKENS = [b",", b";", b'"', b"\n", b"\r\n", b"\0", b"|", b"..", b"/", b"\xef\xbb\xbf", b"\xff", b"{", b"]", b":", b"- ",
          b"NaN", b"-1", b"1e999", b"No Finding", b"Mass", b"null", b"!!python/name:os.system ", b"&a ", b"*a", b"YES",
          b"Image Index", b"[" * 3000, b"9" * 400, b"PK\3\4", b"IHDR", b"\x80\x02"]  # fmt: skip


@st.composite
def mutated(draw, original: bytes) -> bytes:
    """A file with a few changes of the kinds that disks, editors, downloads and strangers make."""
    content = bytearray(original)
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(("flip", "cut", "drop", "double", "token", "bytes", "swap"))):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[place:]
            case "drop":
                del content[place : place + length]
            case "double":
                content[place:place] = content[place : place + length]
            case "token":
                content[place : place + draw(st.integers(0, 3))] = draw(st.sampled_from(TOKENS))
            case "bytes":
                content[place : place + length] = draw(st.binary(max_size=40))
            case "swap":
                other = draw(st.integers(0, max(0, len(content) - 1)))
                content[place : place + length] = content[other : other + length]
    return bytes(content)


def _run_json(path: Path) -> None:
    folder = RunFolder(path.parent)
    folder.read()
    folder.stage("02_preprocess")
    folder.record("02_preprocess", more=1)


def _splits(path: Path) -> None:
    entries = pd.DataFrame({"image": [f"0009000{n}_000.png" for n in range(4)], "patient": range(4)})
    RunFolder(path.parent).load_splits(entries)


def _model(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    operating_points([checkpoint.get("calibration")], checkpoint.get("thresholds"))
    model_from_checkpoint(checkpoint)


def _profile(path: Path) -> None:
    check_parameters(read_profile(path))


def _lists(path: Path) -> None:
    (path.parent / "test_list.txt").write_text("b.png\n")
    read_lists(path.parent)


def _image(path: Path) -> None:
    read_header(path)
    read_radiograph(path)


# file name -> what reads it
READERS: dict[str, Callable] = {
    "Data_Entry_2017.csv": read_entries,
    "BBox_List_2017.csv": read_boxes,
    "train_val_list.txt": _lists,
    "expert_labels.csv": read_expert_labels,
    "thresholds.json": Thresholds.load,
    "calibration.json": Calibrator.load,
    "run.json": _run_json,
    "splits.csv": _splits,
    "profile.yaml": _profile,
    "predictions.npz": Predictions.load,
    "image.png": _image,
    "image.jpg": _image,
    "image.dcm": _image,
    "model.pth": _model,
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, bytes]:
    """A whole small file of each kind."""
    from tests.data.test_images import dicom
    from tests.tiny import make_tiny_nih

    folder = make_tiny_nih(tmp_path_factory.mktemp("fuzz"))
    rng = np.random.default_rng(0)
    names = [f"0009000{n}_000.png" for n in range(4)]
    pd.DataFrame({"image": names, "patient": range(4), "part": "train"}).to_csv(folder / "splits.csv", index=False)
    experts = ["Image ID,Patient ID,Abnormal," + ",".join(name.replace("_", " ") for name in FINDINGS)]
    experts += [f"{name},{number},YES," + ",".join(["NO", "YES"] * 7) for number, name in enumerate(names)]
    (folder / "expert_labels.csv").write_text("\n".join(experts))
    Thresholds(np.linspace(0, 1, 14), grid=(0.05, 0.4, 0.05)).save(folder / "thresholds.json")
    Calibrator("platt", ({"slope": 1.5, "intercept": -0.5},) * 14).save(folder / "calibration.json")
    RunFolder(folder).record("02_preprocess", images=3, seconds=1.5, split="patient")
    (folder / "profile.yaml").write_bytes((PROFILES / "quick.yaml").read_bytes())
    Predictions(rng.random((4, 14)), rng.integers(0, 2, (4, 14)), names, range(4)).save(folder / "predictions.npz")
    Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(folder / "image.png")
    Image.open(folder / "image.png").save(folder / "image.jpg")
    dicom(folder / "image.dcm", WindowCenter=2048, WindowWidth=4096)
    content = {
        "format": 1, "arch": "resnet18", "findings": list(FINDINGS), "image_size": 64, "epoch": 1,
        "mean": [0.5] * 3, "std": [0.5] * 3, "thresholds": None, "calibration": Calibrator().to_dict(),
        "parts": {"train": names[:2], "val": names[2:]},
        "config": {"split": "patient", "seed": 0, "val_subset": 0},
        "state_dict": {"mean": torch.zeros(1, 3, 1, 1), "backbone.fc.bias": torch.zeros(14)},
    }  # fmt: skip
    write_checkpoint(folder / "model.pth", content)
    return {name: (folder / name).read_bytes() for name in READERS}


def read(folder: Path, name: str, content: bytes) -> None:
    """Read the file; every error but ours, with its one sentence, goes through."""
    path = folder / name
    path.write_bytes(content)
    try:
        READERS[name](path)
    except InputError as error:
        said = str(error)
        assert said.isprintable(), f"{said!r} would speak to the terminal"
        assert 20 < len(said) < 3000, said


def tried(name: str, original: bytes, folder: Path, times: int, **how) -> None:
    """Let a reader read `times` files: a third random bytes, the others changed from the original."""

    @settings(max_examples=times, database=None, suppress_health_check=list(HealthCheck), **how)
    @given(st.one_of(st.binary(max_size=400), mutated(original), mutated(original)))
    def every(content: bytes) -> None:
        read(folder, name, content)

    every()


@pytest.mark.parametrize("name", READERS)
def test_the_whole_file_is_read(name, originals, tmp_path):
    expected = pytest.raises(InputError, match="do not fit") if name.startswith("model") else contextlib.nullcontext()
    path = tmp_path / name
    path.write_bytes(originals[name])
    with expected:  # a checkpoint with two of its weights: all but these fit
        READERS[name](path)


@pytest.mark.parametrize("name", READERS)
def test_five_hundred_files(name, originals, tmp_path):
    tried(name, originals[name], tmp_path, -(-500 // len(READERS)), derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_files(name, originals, tmp_path):
    tried(name, originals[name], tmp_path, -(-10_000 // len(READERS)))


@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_doctor_looks_at_anything(data, originals, tmp_path):
    (tmp_path / "images").mkdir(exist_ok=True)
    for name in ("Data_Entry_2017.csv", "BBox_List_2017.csv", "train_val_list.txt"):
        (tmp_path / name).write_bytes(data.draw(mutated(originals[name])))
    (tmp_path / "images" / "00090001_000.png").write_bytes(data.draw(mutated(originals["image.png"])))
    report = check_dataset(tmp_path, deep=True, progress=False)
    json.dumps(report.to_dict())
    assert report.verdict in str(report)
