"""The protocol: calibrate and tune on validation, freeze, measure on test, or at another hospital; what is written."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.paths import write_csv, write_json, write_text
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.bootstrap import Bootstrap, with_macro
from cxrlib.evaluation.calibration import Calibrator, choose_method, ece_floor, mean_calibrated, methods_text
from cxrlib.evaluation.differences import group_difference
from cxrlib.evaluation.metrics import THRESHOLD_METRICS, evaluate
from cxrlib.evaluation.predictions import UNKNOWN, Predictions
from cxrlib.evaluation.thresholds import GRID, Thresholds, number, too_few, tune_thresholds

REFITTED = ("ece_mass", "f1", "sensitivity", "specificity")
_ENDS = ("", "_low", "_high")


@dataclass(frozen=True)
class Evaluation:
    """The operating point, of each model or of their mean, and the table of `evaluate` at it on calibrated scores."""

    calibrators: tuple[Calibrator, ...]
    thresholds: Thresholds
    table: pd.DataFrame
    test: Predictions
    tuned_on: int  # images

    def write(self, folder: Path, raw: list[Predictions], text: str, models: list[str]) -> None:
        """Write metrics.csv, metrics.txt, thresholds.json, and of each model calibration.json, predictions_test.npz.

        models: what each is known by, in the order of `raw` and of their calibrations.
        """
        write_csv(folder / "metrics.csv", self.table)
        write_text(folder / "metrics.txt", text)
        write_json(folder / "thresholds.json", self.thresholds.to_dict() | {"models": models})
        if len(raw) > 1:  # the mean of the calibrated scores; files of each model have a number
            self.test.save(folder / "predictions_test.npz")
        for end, calibrator, scores in zip(numbered(len(raw)), self.calibrators, raw, strict=True):
            calibrator.save(folder / f"calibration{end}.json")
            scores.save(folder / f"predictions_test{end}.npz")

    def text(self, models: dict[str, dict]) -> str:
        """A line per finding, the macros, the models (checkpoints of one split, by name), the data, the notes."""
        lines, config, patients = [], next(iter(models.values()))["config"], len(np.unique(self.test.patient))
        for finding, row in self.table[:-1].iterrows():
            lines.append(f"{finding:<19} AUC {_with_interval(row, 'auroc')}  F1 {_with_interval(row, 'f1')}  threshold "
                         f"{number(row.threshold):<6}  positives {row.positives:.0f} of {row.n:.0f}")  # fmt: skip
        for name, metric in (("AUC", "auroc"), ("F1", "f1"), ("AP", "ap")):
            value, defined = _with_interval(self.table.loc["macro"], metric), self.table[metric][:-1].notna().sum()
            lines.append(f"{'macro ' + name:<19} {name:<3} {value}  over {defined} of {len(FINDINGS)} findings")
        lines.append("")
        lines += [f"# {name}: {a['arch']}, {a['image_size']} pixels, epoch {a['epoch']}" for name, a in models.items()]
        lines.append(f"# split {config['split']}: thresholds tuned on {self.tuned_on:,} "
                     f"validation images, figures from {len(self.test):,} test images of {patients:,} patients\n"
                     "# in brackets: 95 % intervals, bootstrap over patients")  # fmt: skip
        if config["split"] == "image":
            lines.append("# this split puts images of one patient on both sides: the figures are too good to be true")
        if {calibrator.method for calibrator in self.calibrators} - {"none"}:
            lines.append(f"# thresholds are on scores calibrated on validation ({methods_text(self.calibrators)})")
        findings_of = {}  # note -> the findings it concerns
        for notes in (*(one.notes for one in self.calibrators), self.thresholds.notes, self.table["note"]):
            for note, finding in zip(notes, FINDINGS, strict=False):
                findings_of.setdefault(note, {})[finding] = None  # once, whichever models it is of
        lines += [f"# {', '.join(findings)}: {note}" for note, findings in findings_of.items() if note]
        return "\n".join(lines) + "\n"


def numbered(models: int) -> list[str]:
    """What the names of each model's files end in: _1, _2, ...; nothing for a single model."""
    return [f"_{n}" for n in range(1, models + 1)] if models > 1 else [""]


def evaluate_at_tuned(
    val, test, calibrate="auto", grid=GRID, objective="f1", replicates=1000, thresholds=None
) -> Evaluation:
    """Fit the calibrators and the thresholds on `val`, freeze both, and measure on `test`.

    val, test: uncalibrated predictions of each model, on the same images; thresholds and figures are those of the mean
    of the calibrated scores. calibrate: one of `calibration.METHODS`, or "auto" (`choose_method`).
    thresholds: used unchanged, such as those set by hand in notebook 05, on scores of the calibration that they record.
    """
    given = thresholds.calibration.removeprefix("mean of ").split(", ") if thresholds and thresholds.calibration else []
    methods = given if len(given) == len(val) else [calibrate] * len(val)  # `evaluate` refuses others
    methods = [choose_method(one) if method == "auto" else method for one, method in zip(val, methods, strict=True)]
    calibrators = tuple(map(Calibrator.fit, val, methods))
    if thresholds is None:
        thresholds = tune_thresholds(mean_calibrated(calibrators, val), grid, objective)
    mean = mean_calibrated(calibrators, test)
    return Evaluation(calibrators, thresholds, evaluate(mean, thresholds, replicates), mean, len(val[0]))


def _with_interval(row: pd.Series, metric: str) -> str:
    value, low, high = (row[metric + end] for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "undefined            "
    return f"{value:.4f} [no interval] " if np.isnan(low) else f"{value:.4f} [{low:.3f}, {high:.3f}]"


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
