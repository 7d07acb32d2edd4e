"""Whom does the model serve worse, and does it agree with radiologists better than with the labels it learned from?

How far the labels themselves can be trusted, and how far radiologists agree with each other: `agreement`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.agreement import FOUR_FINDINGS
from cxrlib.evaluation.bootstrap import count_patients
from cxrlib.evaluation.differences import difference_table, group_difference, holm
from cxrlib.evaluation.predictions import Predictions

GROUPS = ("sex", "age", "view")
_SEXES = {"F": "women", "M": "men"}
_AGES = {"under 40": (0, 40), "40 to 59": (40, 60), "60 and over": (60, np.inf)}


def groups(entries: pd.DataFrame, by: str) -> pd.Series:
    """The group of each entry: sex "women", "men"; age "under 40", "40 to 59", "60 and over"; view "PA", "AP".

    None where the entry does not say. Raises InputError for another attribute, or one that the entries lack.
    """
    if by not in GROUPS or by not in entries:
        raise InputError(f"the entries cannot be grouped by {by!r}; expected one of {some(GROUPS)}, in their columns")
    if by == "sex":
        return entries[by].map(_SEXES)
    if by == "view":
        return entries[by].where(entries[by].isin(["PA", "AP"]), None)
    named = [next((name for name, (low, high) in _AGES.items() if low <= age < high), None) for age in entries[by]]
    return pd.Series(named, index=entries.index, name=by, dtype=object)


def audit(
    predictions: Predictions,
    entries: pd.DataFrame,
    thresholds: Sequence[float],
    by: Sequence[str] = GROUPS,
    min_patients: int = 5,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Gaps in AUROC and in miss rate (1 - sensitivity at the frozen thresholds) between each group and all others.

    entries: image and the columns in `by`. Of two groups only one row is given, since the other says the same.
    Rows: by, group, metric, finding (or "macro", over the findings that are defined); columns: patients and
    patients_others (with the finding), value, others, gap (value - others), low, high, p, p_holm, note.
    p_holm is Holm's over all findings of all groups and both metrics: an audit looks often. The macros keep their p.
    A finding that fewer than `min_patients` patients have (or do not have) on either side is undefined, with its note.
    """
    entries = entries.set_index("image").reindex(predictions.image)
    tables = []
    for name in by:
        group = groups(entries, name).to_numpy()
        present = [one for one in _order(name) if (group == one).any()]
        for one in present if len(present) > 2 else present[:1]:
            within, others = predictions.take(group == one), predictions.take((group != one) & pd.notna(group))
            tables += [_gap(within, others, metric, thresholds, min_patients, replicates, seed)
                       .assign(by=name, group=one, metric=metric) for metric in ("auroc", "miss_rate")]  # fmt: skip
    if not tables:
        return pd.DataFrame(columns=["by", "group", "metric", "finding", *_GAP])
    table = pd.concat(tables).reset_index()
    single = table["finding"] != "macro"
    table.loc[single, "p_holm"] = holm(table.loc[single, "p"].to_numpy())
    return table[["by", "group", "metric", "finding", *_GAP]]


_GAP = ("patients", "patients_others", "value", "others", "gap", "low", "high", "p", "p_holm", "note")


def _order(by: str) -> list[str]:
    return {"sex": list(_SEXES.values()), "age": list(_AGES), "view": ["AP", "PA"]}[by]


def _gap(within, others, metric, thresholds, min_patients, replicates, seed) -> pd.DataFrame:
    """One group against all others: a difference table with the columns of an audit."""
    (having, scarcest), (having_others, scarcest_others) = count_patients(within), count_patients(others)
    fewest = np.minimum(scarcest, scarcest_others)[:-1]
    enough = fewest >= min_patients
    asked = "sensitivity" if metric == "miss_rate" else metric
    table = difference_table(within, others, asked, thresholds, replicates, seed, include=enough)
    if metric == "miss_rate":
        low, high = -table["high"], -table["low"]
        table = table.assign(a=1 - table["a"], b=1 - table["b"], difference=-table["difference"], low=low, high=high)
    sides = zip(having, scarcest, having_others, scarcest_others, strict=True)
    few = [_too_few(*counts, min_patients) for counts in sides]
    notes = np.where(enough, table["note"].iloc[:-1], few[:-1])
    table["note"] = [*notes, table["note"].iloc[-1]]
    table = table.assign(patients=having, patients_others=having_others)
    return table.rename(columns={"a": "value", "b": "others", "difference": "gap"})


def _too_few(having: int, scarcest: int, having_others: int, scarcest_others: int, least: int) -> str:
    where, fewest, of = min(("in the group", scarcest, having), ("among the others", scarcest_others, having_others),
                            key=lambda side: side[1])  # fmt: skip
    return f"{fewest} patients {'with' if fewest == of else 'without'} it {where}, fewer than {least}"


def against_experts(
    predictions: Predictions,
    experts: pd.DataFrame,
    min_positives: int = 10,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """AUROC of the same scores on the same images by the mined labels and by the experts': one row an expert finding.

    experts: image and 0 / 1 columns, as `read_expert_labels` gives them; those of FOUR_FINDINGS are compared with
    any of our findings: their labels, and the chance of any if each came alone. Other columns are left out.
    Columns: images, mined and expert (positives), auroc_mined, auroc_expert, difference (expert - mined), low, high, p,
    note. Fewer than `min_positives` positives by either are undefined, with the reason.
    """
    theirs = experts.set_index("image")
    both = predictions.take(np.isin(predictions.image, theirs.index))
    theirs = theirs.loc[both.image]
    rows = {}
    for name, members in _comparable(theirs).items():
        k = [FINDINGS.index(member) for member in members]
        mined, expert = both.labels[:, k].max(axis=1, initial=0), theirs[name].to_numpy()
        row = {"images": len(both), "mined": mined.sum(), "expert": expert.sum()}
        least = min((min(one.sum(), (one == 0).sum()) for one in (mined, expert)), default=0)
        if least < min_positives:
            row["note"] = f"{least} images with or without it by one of the two, fewer than {min_positives}"
        else:
            score = 1 - (1 - both.scores[:, k]).prod(axis=1)
            a, b = (_one_column(both, score, labels) for labels in (expert, mined))
            found = group_difference(a, b, "auroc", None, replicates, seed).iloc[0]
            row |= {"auroc_mined": found["b"], "auroc_expert": found["a"], "note": found["note"]}
            row |= {key: found[key] for key in ("difference", "low", "high", "p")}
        rows[name] = row
    columns = ["images", "mined", "expert", "auroc_mined", "auroc_expert", "difference", "low", "high", "p", "note"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("finding")


def _comparable(labels: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The columns of a table of labels that ours can be compared with, and the findings of ours that they stand for."""
    known = {name: (name,) for name in FINDINGS} | FOUR_FINDINGS
    return {name: known[name] for name in labels.columns if name in known}


def _one_column(predictions: Predictions, scores: np.ndarray, labels: np.ndarray) -> Predictions:
    """The score and label of one question in the first of the fourteen columns; nothing in the others."""
    table = np.zeros((2, *predictions.scores.shape))
    table[0, :, 0], table[1, :, 0] = scores, labels
    return replace(predictions, scores=table[0], labels=table[1])
