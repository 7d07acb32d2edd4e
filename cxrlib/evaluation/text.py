"""What a measurement says to a reader: the table of metrics as text."""

from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds


def metrics_text(
    table: pd.DataFrame,
    thresholds: Thresholds,
    weights: str | Path,
    checkpoint: dict,
    val: Predictions,
    test: Predictions,
    calibrator: Calibrator | None = None,
) -> str:
    """One line a finding: AUC, F1, threshold; then the macros; then what was measured on what, and each note."""
    lines = []
    for finding, threshold in zip(FINDINGS, thresholds.texts, strict=True):
        row = table.loc[finding]
        lines.append(
            f"{finding:<19} AUC {_figure(row, 'auroc')}  F1 {_figure(row, 'f1')}  threshold {threshold:<6}  "
            f"positives {row['positives']:.0f} of {row['n']:.0f}"
        )
    for name, metric in (("AUC", "auroc"), ("F1", "f1"), ("AP", "ap")):
        defined = table.loc[list(FINDINGS), metric].notna().sum()
        lines.append(
            f"{'macro ' + name:<19} {name:<3} {_figure(table.loc['macro'], metric)}  over {defined} of 14 findings"
        )
    split = checkpoint["config"]["split"]
    lines += [
        "",
        f"# {weights}: {checkpoint['arch']}, {checkpoint['image_size']} pixels, epoch {checkpoint['epoch']}",
        f"# split {split}, seed {checkpoint['config']['seed']}: thresholds tuned on {len(val):,} validation images, "
        f"figures from {len(test):,} test images of {len(np.unique(test.patient)):,} patients",
        "# in brackets: 95 % intervals, bootstrap over patients",
    ]
    if split == "image":
        lines.append("# this split puts images of one patient on both sides: the figures are too good to be true")
    if calibrator is not None and calibrator.method != "none":
        lines.append(f"# thresholds are on scores calibrated on validation ({calibrator.method})")
    fitted = [] if calibrator is None else calibrator.notes
    notes = [*zip(fitted, FINDINGS, strict=False), *zip(thresholds.notes, FINDINGS, strict=True)]
    notes += [*zip(table["note"], FINDINGS, strict=False)]
    for note in dict.fromkeys(note for note, _ in notes if note):  # one line a note, with the findings it speaks of
        lines.append(f"# {', '.join(finding for text, finding in notes if text == note)}: {note}")
    return "\n".join(lines) + "\n"


def _figure(row: pd.Series, metric: str) -> str:
    if np.isnan(row[metric]):
        return "undefined            "
    if np.isnan(row[f"{metric}_low"]):
        return f"{row[metric]:.4f} [no interval] "
    return f"{row[metric]:.4f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]"
