"""A model at another hospital: what remains of it with calibration and thresholds as they were, and after a new fit."""

from dataclasses import replace

import numpy as np
import pandas as pd

from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Bootstrap, with_macro
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.differences import group_difference
from cxrlib.evaluation.metrics import THRESHOLD_METRICS, evaluate
from cxrlib.evaluation.predictions import UNKNOWN, Predictions
from cxrlib.evaluation.reliability import ece_floor
from cxrlib.evaluation.thresholds import Thresholds, too_few, tune_thresholds

REFITTED = ("ece_mass", "f1", "sensitivity", "specificity")
_ENDS = ("", "_low", "_high")


def external(here, there: Predictions, calibrator, thresholds, resampling=Bootstrap()) -> pd.DataFrame:
    """One row per finding and "macro": a model on its own test part (`here`) and at another hospital (`there`).

    here (or None), there: uncalibrated scores, of different patients whatever they are called. calibrator, thresholds:
    frozen. A finding with fewer than five positive or negative images there is not measured; the note says so.
    Columns: positives, patients (with it) and n (images of known label) there; auroc_here, auroc_there, and their
    difference (there - here) with p and p_holm; at the thresholds sensitivity, specificity and f1 there; mean
    calibrated score (score) and prevalence there, ece_mass and what noise alone would give (floor); then what
    `refitting` returns; each metric with `_low` and `_high`, and a note. Macros are means over the findings measured.
    """
    few = [too_few(positive) for _, positive, _ in there.by_finding()]
    enough = np.array([not note for note in few])
    counts = evaluate(there, replicates=0)[["positives", "patients", "n"]]
    there = replace(there, labels=np.where(enough, there.labels, UNKNOWN))
    calibrated = calibrator.apply(there)
    measured = evaluate(calibrated, thresholds, *resampling)
    renamed = {side: {f"auroc{end}": f"auroc_{side}{end}" for end in _ENDS} for side in ("here", "there")}
    parts, missing = [counts, measured[[*renamed["there"]]].rename(columns=renamed["there"])], [""] * len(measured)
    if here is not None:
        here = replace(calibrator.apply(here), labels=np.where(enough, here.labels, UNKNOWN))
        own = evaluate(here, None, *resampling)
        difference = group_difference(_apart(calibrated, "there"), _apart(here, "here"), resampling=resampling)
        difference = difference.rename(columns={"low": "difference_low", "high": "difference_high"})
        parts += [own[[*renamed["here"]]].rename(columns=renamed["here"]), difference.drop(columns=["a", "b", "note"])]
        missing = ("here: " + own["note"]).where(own["auroc"].isna(), "")
    score = [scores.mean() if len(scores) else np.nan for scores, _, _ in calibrated.by_finding()]
    parts.append(measured[[name + end for name in ("sensitivity", "specificity", "f1", "ece_mass") for end in _ENDS]])
    levels = {"score": with_macro(np.array(score)), "floor": with_macro(ece_floor(calibrated))}
    again = refitting(there, calibrator, thresholds, resampling)
    parts += [measured[["threshold", "prevalence"]].assign(**levels), again.drop(columns="note")]
    frozen = [note and f"frozen threshold: {note}" for note in thresholds.notes]
    columns = zip(few, frozen, measured["note"], missing, again["note"], strict=False)  # the macro has its own
    notes = [note or "; ".join(filter(None, others)) for note, *others in columns]
    return pd.concat(parts, axis=1).assign(note=[*notes, measured["note"].iloc[-1]])


def refitting(there: Predictions, calibrator: Calibrator, thresholds: Thresholds, resampling) -> pd.DataFrame:
    """What a new calibration and new thresholds, fitted on half of the patients, bring back on the other half.

    Fitted by the method of the calibrator ("platt" where it is "none") and for the objective and grid of the thresholds
    (F1 where they were set by hand). Columns: for each of REFITTED `name_frozen`, `name_refitted` and their difference
    `name_change` with `_low` and `_high`; NaN, with a note, where half of the patients is too few for the fit.
    """
    patients = np.random.default_rng(resampling.seed).permutation(np.unique(there.patient))
    first = np.isin(there.patient, patients[: len(patients) // 2])
    half, rest = there.take(first), there.take(~first)
    again = Calibrator.fit(half, "platt" if calibrator.method == "none" else calibrator.method)
    objective = "f1" if thresholds.objective.startswith("by hand") else thresholds.objective
    tuned = tune_thresholds(again.apply(half), thresholds.grid, objective, resampling=Bootstrap(0))
    fitted = tuned.tuned & [not note for note in again.notes]
    new, old = again.apply(rest), calibrator.apply(rest)
    columns = {}
    for name in REFITTED:
        both = (tuned, thresholds) if name in THRESHOLD_METRICS else None
        found = group_difference(new, old, name, both, resampling, include=fitted)
        columns |= {f"{name}_frozen": found["b"], f"{name}_refitted": found["a"], f"{name}_change": found["difference"]}
        columns |= {f"{name}_change_low": found["low"], f"{name}_change_high": found["high"]}
    reasons = zip(fitted, again.notes, tuned.notes, strict=True)
    notes = ["" if good else f"no new fit on half of the patients: {one or other}" for good, one, other in reasons]
    return pd.DataFrame(columns).assign(note=[*notes, f"a new fit for {fitted.sum()} of {len(FINDINGS)} findings"])


def external_text(table: pd.DataFrame, head: list[str]) -> str:
    """The table of `external` for reading: the lines `head`, what was measured, and the notes on the rest."""
    shown = table[table["auroc_there"].notna()]

    def cells(name: str, sign: str = "") -> list[str]:
        each = shown[[name + end for end in _ENDS]].to_numpy(float)
        return ["" if np.isnan(one[0]) else "{:{s}.2f} [{:{s}.2f}, {:{s}.2f}]".format(*one, s=sign) for one in each]

    def change(name: str) -> list[str]:
        each = zip(shown[f"{name}_frozen"], shown[f"{name}_refitted"], cells(f"{name}_change", "+"), strict=True)
        return [text and f"{old:.2f} to {new:.2f}, {text}" for old, new, text in each]

    counts = [f"{row.positives:.0f} of {row.n:.0f}" if row.Index in FINDINGS else "" for row in shown.itertuples()]
    own = {"AUC here": cells("auroc_here"), "difference": cells("difference", "+")} if "auroc_here" in table else {}
    blocks = {
        "ranking": {"positive": counts, "AUC there": cells("auroc_there")} | own,
        "frozen thresholds and calibration; noise: the calibration error of perfect scores": {
            "sensitivity": cells("sensitivity"), "specificity": cells("specificity"),
            "calibration error": cells("ece_mass"), "noise": [f"{value:.2f}" for value in shown["floor"]]},
        "fitted again on half of the patients, measured on the other half": {
            "calibration error": change("ece_mass"), "F1": change("f1")},
    }  # fmt: skip
    lines = [f"# {line}" for line in head]
    for title, columns in blocks.items() if len(shown) else ():
        lines += ["", title, pd.DataFrame(columns, index=shown.index.rename(None)).to_string()]
    findings_of = table["note"].index.groupby(table["note"])  # a note -> the findings that it concerns
    lines += ["", *(f"# {', '.join(names)}: {note}" for note, names in findings_of.items() if note)]
    return "\n".join(lines) + "\n"


def _apart(predictions: Predictions, hospital: str) -> Predictions:
    """The same with the hospital's name before each patient, so that no patient is drawn for both."""
    return replace(predictions, patient=np.char.add(f"{hospital} ", predictions.patient.astype(str)))
