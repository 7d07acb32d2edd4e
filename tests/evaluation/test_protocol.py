"""The table of metrics as text: values in their places, reasons where undefined, files written atomically."""

import os

import numpy as np
import pytest

from cxrlib.core.paths import write_text
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.protocol import Evaluation
from cxrlib.evaluation.thresholds import number, tune_thresholds

CHECKPOINT = {"arch": "resnet18", "image_size": 224, "epoch": 3, "config": {"split": "patient", "seed": 7}}


def made(seed):
    """120 images of 60 patients; Fibrosis is never there, Hernia once."""
    rng = np.random.default_rng(seed)
    labels = rng.random((120, 14)) < 0.3
    labels[:, FINDINGS.index("Fibrosis")] = False
    labels[:, FINDINGS.index("Hernia")] = np.arange(120) == 5
    scores = np.clip(0.2 * labels + rng.random((120, 14)) * 0.5, 0, 1)
    return Predictions(scores, labels, [f"{n:08d}_000.png" for n in range(120)], np.arange(120) // 2)


@pytest.fixture(scope="module")
def measured():
    val, test = made(0), made(1)
    thresholds = tune_thresholds(val, resampling=Bootstrap(20))
    return evaluate(test, thresholds, replicates=50), thresholds, val, test.take(np.arange(118))


def text_of(measured, **changes):
    table, thresholds, val, test = measured
    checkpoint = CHECKPOINT | {"config": CHECKPOINT["config"] | changes}
    return Evaluation((), thresholds, table, test, len(val)).text({"model_best.pth": checkpoint})


def test_one_line_a_finding_in_order_then_the_macros(measured):
    table, thresholds, *_ = measured
    lines = text_of(measured).split("\n")
    assert [line.split()[0] for line in lines[:14]] == list(FINDINGS)
    for k, line in enumerate(lines[:14]):
        row = table.loc[FINDINGS[k]]
        if FINDINGS[k] not in ("Fibrosis", "Hernia"):
            assert f"AUC {row['auroc']:.4f} [{row['auroc_low']:.3f}, {row['auroc_high']:.3f}]" in line
            assert f"F1 {row['f1']:.4f} [{row['f1_low']:.3f}, {row['f1_high']:.3f}]" in line
        assert f"threshold {number(thresholds.values[k])} " in line
        assert line.endswith(f"positives {row['positives']:.0f} of 120")
    for line, name, metric in zip(lines[14:17], ("AUC", "F1", "AP"), ("auroc", "f1", "ap"), strict=True):
        assert line.startswith(f"macro {name}")
        row = table.loc["macro"]
        assert f"{row[metric]:.4f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]  over " in line
        assert line.endswith(f"over {table.loc[list(FINDINGS), metric].notna().sum()} of 14 findings")
    assert "over 13 of 14" in lines[14]


def test_columns_stand_below_each_other(measured):
    lines = text_of(measured).split("\n")[:14]
    for word in ("AUC ", "F1 ", "threshold ", "positives "):
        assert len({line.index(word) for line in lines}) == 1, word


def test_what_is_undefined_is_said_with_its_reason(measured):
    text = text_of(measured)
    fibrosis, hernia = (next(line for line in text.split("\n") if line.startswith(name)) for name in ("Fib", "Her"))
    assert "AUC undefined " in fibrosis
    assert "AUC 0." in hernia or "AUC 1." in hernia
    assert "[no interval]" in hernia
    assert "nan" not in text.lower().replace("finding", "")
    reasons = [line for line in text.split("\n") if line.startswith("# ") and "Fibrosis" in line]
    assert any("no positive" in reason or "undefined" in reason for reason in reasons)
    assert any("not tuned" in reason for reason in reasons)


def test_says_what_was_measured_on_what(measured):
    text = text_of(measured)
    assert "# model_best.pth: resnet18, 224 pixels, epoch 3\n" in text
    assert "# split patient: thresholds tuned on 120 validation images, figures from 118 test images of 59 " in text
    assert "too good to be true" not in text
    assert "too good to be true" in text_of(measured, split="image")


def test_says_what_the_scores_went_through(measured):
    table, thresholds, val, test = measured
    notes = ("not calibrated: 1 positive of 120 images",) + ("",) * 13
    done = Evaluation((Calibrator("platt", notes=notes),), thresholds, table, test, len(val))
    text = done.text({"w": CHECKPOINT})
    assert "\n# thresholds are on scores calibrated on validation (platt)\n" in text
    assert "\n# Atelectasis: not calibrated: 1 positive of 120 images\n" in text
    assert "calibrated" not in text_of(measured)
    done = Evaluation((Calibrator("none"),), thresholds, table, test, len(val))
    assert "are on scores calibrated" not in done.text({"w": CHECKPOINT})


def test_a_note_is_said_once_with_all_its_findings(measured):
    table, thresholds, val, test = measured
    table = table.assign(note="")
    table.loc[["Mass", "Edema"], "note"] = "scarce here"
    text = Evaluation((), thresholds, table, test, len(val)).text({"w": CHECKPOINT})
    notes = [line for line in text.split("\n") if "scarce here" in line]
    assert notes == ["# Edema, Mass: scarce here"]


def test_write_text_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "metrics.txt"
    write_text(path, "Überblick\n")
    assert path.read_bytes() == "Überblick\n".encode()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "half")
    assert path.read_bytes() == "Überblick\n".encode()
    monkeypatch.undo()
    write_text(path, "new")
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.txt"]
