"""Predictions: what they accept, what they refuse, and that a file gives back what went in."""

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions

N = 7


def arrays(**changes):
    rng = np.random.default_rng(0)
    values = {
        "scores": rng.random((N, 14), dtype=np.float32),
        "labels": rng.integers(0, 2, (N, 14), dtype=np.uint8),
        "image": np.array([f"{i:08d}_000.png" for i in range(N)]),
        "patient": np.array([1, 1, 2, 3, 3, 3, 4]),
    }
    return values | changes


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays())


def test_converts_lists_frames_and_other_dtypes():
    values = arrays()
    given = Predictions(
        scores=pd.DataFrame(values["scores"].astype(np.float64)),
        labels=values["labels"].astype(bool).tolist(),
        image=pd.Series(values["image"]),
        patient=pd.Series(values["patient"], dtype=object),
    )
    assert same(given, Predictions(**values))
    assert given.scores.dtype == np.float32
    assert given.labels.dtype == np.uint8
    assert given.image.dtype.kind == "U"
    assert given.patient.dtype == np.int64
    assert len(given) == N


def test_patients_named_by_text_stay_text():
    given = Predictions(**arrays(patient=pd.Series(list("aabbccd"))))
    assert given.patient.tolist() == list("aabbccd")
    assert Predictions(**arrays(patient=["007", "007", "08", "1", "1", "1", "2"])).patient[0] == "007"


def changed(name, place, value):
    array = arrays()[name].astype(float)
    array[place] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (changed("scores", (2, 3), np.nan), "1 scores that are NaN.*Edema in row 2"),
        (changed("scores", (0, 13), 1.01), r"1 scores outside \[0, 1\].*sigmoid.*1.01.* for Hernia in row 0"),
        (changed("scores", (0, 0), -0.01), r"scores outside \[0, 1\]"),
        (changed("scores", (0, 0), np.inf), r"scores outside \[0, 1\]"),
        (changed("labels", (1, 0), 2), "1 labels other than 0 and 1; .*Atelectasis in row 1"),
        (changed("labels", (1, 0), -1), "1 labels other than 0 and 1; expected NaN for unknown"),
        (changed("labels", (1, 0), 0.5), "1 labels other than 0 and 1"),
        ({"scores": np.zeros((N, 13))}, r"scores \(7, 13\).*expected \(n, 14\)"),
        ({"scores": np.zeros((N - 1, 14))}, r"scores \(6, 14\)"),
        ({"labels": np.zeros((N, 1))}, r"labels \(7, 1\)"),
        ({"patient": [1, 2]}, r"patient \(2,\)"),
        ({"image": "one"}, r"image \(\)"),
        ({"image": ["same.png"] * N}, "contain same.png more than once"),
    ],
)
def test_refuses_in_one_sentence(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        Predictions(**arrays(**changes))
    assert "\n" not in str(caught.value)


def test_a_score_that_rounds_to_one_is_accepted():
    assert Predictions(**arrays(scores=np.full((N, 14), 1 + 1e-12))).scores.max() == 1


def test_take_by_mask_and_by_position():
    given = Predictions(**arrays())
    assert given.take(given.patient == 3).image.tolist() == given.image[3:6].tolist()
    assert given.take([5, 0]).image.tolist() == given.image[[5, 0]].tolist()
    assert given.take([5, 0]).labels.tolist() == given.labels[[5, 0]].tolist()
    assert len(given.take(np.zeros(N, dtype=bool))) == 0


@pytest.mark.parametrize("patient", [[1, 1, 2, 3, 3, 3, 4], list("aabbccd")])
def test_a_file_gives_back_what_went_in(tmp_path, patient):
    given = Predictions(**arrays(patient=patient))
    path = given.save(tmp_path / "new" / "predictions_test.npz")
    again = Predictions.load(str(path))
    assert same(given, again)
    assert again.patient.dtype == given.patient.dtype
    assert [entry.name for entry in path.parent.iterdir()] == ["predictions_test.npz"]  # nothing left beside it
    with np.load(path, allow_pickle=False) as file:
        assert file["findings"].tolist() == list(FINDINGS)


def test_no_images_are_saved_and_loaded_too(tmp_path):
    assert len(Predictions.load(Predictions(**arrays()).take([]).save(tmp_path / "none.npz"))) == 0


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    given = Predictions(**arrays())
    assert given.save(tmp_path / "a.npz").read_bytes() == given.save(tmp_path / "b.npz").read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = Predictions(**arrays()).save(tmp_path / "p.npz")
    before = path.read_bytes()

    def full_disk(file, **_):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space left"):
        Predictions(**arrays()).take([0]).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["p.npz"]


def test_the_old_file_stays_until_the_new_one_takes_its_place(tmp_path, monkeypatch):
    path = Predictions(**arrays()).save(tmp_path / "p.npz")
    before = path.read_bytes()
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (seen.append(path.read_bytes()), replace(*paths)))
    Predictions(**arrays()).take([0]).save(path)
    assert seen == [before]
    assert len(Predictions.load(path)) == 1


def test_load_refuses_broken_and_foreign_files(tmp_path):
    whole = Predictions(**arrays()).save(tmp_path / "whole.npz").read_bytes()
    middle = len(whole) // 2
    flipped = bytearray(whole)
    flipped[100] ^= 0xFF  # inside the compressed scores
    contents = {"half": whole[:middle], "empty": b"", "text": b"image,score\n", "flipped": bytes(flipped)}
    for name, content in contents.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{re.escape(str(path))} cannot be read as predictions"):
            Predictions.load(path)


def test_load_refuses_what_is_no_set_of_predictions(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.npz is not a file"):
        Predictions.load(tmp_path / "nowhere.npz")
    with pytest.raises(InputError, match="is not a file"):
        Predictions.load(tmp_path)
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    with pytest.raises(InputError, match=r"cannot be read as predictions \(.*scores is not a file"):
        Predictions.load(tmp_path / "foreign.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(InputError, match="cannot be read as predictions"):
        Predictions.load(tmp_path / "array.npy")
    np.savez(tmp_path / "pickle.npz", **arrays(patient=np.array([{}] * N)), findings=np.array(FINDINGS))
    with pytest.raises(InputError, match="cannot be read as predictions"):
        Predictions.load(tmp_path / "pickle.npz")
    np.savez(tmp_path / "order.npz", **arrays(), findings=np.array(FINDINGS[::-1]))
    with pytest.raises(InputError, match=r"saved for the findings Hernia, .*expected Atelectasis"):
        Predictions.load(tmp_path / "order.npz")
    np.savez(tmp_path / "bad.npz", **arrays(scores=np.full((N, 14), 2.0)), findings=np.array(FINDINGS))
    with pytest.raises(InputError, match=r"bad.npz: predictions contain 98 scores outside"):
        Predictions.load(tmp_path / "bad.npz")


def test_importing_the_evaluation_loads_no_torch():
    modules = ", ".join(f"cxrlib.evaluation.{name}" for name in ("predictions", "metrics", "thresholds"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
