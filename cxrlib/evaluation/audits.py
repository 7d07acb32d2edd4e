"""Audits: gaps in performance between groups of patients, and performance against the labels of radiologists."""

from dataclasses import replace

import numpy as np
import pandas as pd

from cxrlib.core.errors import some
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.agreement import EACH, EXPERT_TASKS, both_known
from cxrlib.evaluation.bootstrap import Bootstrap, count_patients
from cxrlib.evaluation.differences import group_difference, holm
from cxrlib.evaluation.predictions import Predictions

GROUPS = {"sex": ("women", "men"), "age": ("under 40", "40 to 59", "60 and over"), "view": ("AP", "PA")}
_LEAST_PATIENTS, _LEAST_POSITIVES = 5, 10  # on either side of a gap; of either kind of label
_GAP = ("patients", "patients_others", "value", "others", "gap", "low", "high", "p", "p_holm", "note")


def groups(entries: pd.DataFrame, by: str) -> pd.Series:
    """The group of each entry, of GROUPS, by "sex", "age" or "view"; missing where the entry has no such value."""
    if by == "age":
        return pd.cut(entries[by], [0, 40, 60, np.inf], right=False, labels=GROUPS[by]).astype(object)
    return entries[by].map({"F": "women", "M": "men"} if by == "sex" else {"AP": "AP", "PA": "PA"})


def audit(predictions: Predictions, entries: pd.DataFrame, thresholds, replicates=1000, seed=0) -> pd.DataFrame:
    """Gaps in AUROC and in miss rate (1 - sensitivity at the frozen thresholds) between each group and all others.

    entries: image, and of sex, age and view what there is; a grouping that they do not give is left out, which is said.
    Of two groups only the first has rows, since the gap of the other is the same with the opposite sign.
    Columns: by, group, metric, finding (or "macro"), patients and patients_others (with the finding), value, others,
    gap (value - others), low, high, p, p_holm (over all findings, groups and metrics; the macros keep their p), note.
    A finding present (or absent) in fewer than 5 patients on either side is undefined, with a note.
    """
    entries = entries.set_index("image").reindex(predictions.image)
    resampling, tables = Bootstrap(replicates, seed), []
    for name in GROUPS:
        group = groups(entries, name).to_numpy() if name in entries else np.full(len(entries), None)
        present = [one for one in GROUPS[name] if (group == one).any()]
        if len(present) < 2:
            holds = f"has only {some(entries[name].unique(), 3)}" if name in entries else "is not in the table"
            print(f"no audit by {name}: the column {holds}")
        for one in present if len(present) > 2 else present[: len(present) - 1]:
            sides = predictions.take(group == one), predictions.take((group != one) & pd.notna(group))
            for metric in ("auroc", "miss_rate"):
                table = _gap(*sides, metric, thresholds, resampling)
                tables.append(table.assign(by=name, group=one, metric=metric).reset_index())
    columns = ["by", "group", "metric", "finding", *_GAP]
    if not tables:
        return pd.DataFrame(columns=columns).astype(dict.fromkeys(_GAP[:-1], float))
    table = pd.concat(tables, ignore_index=True)
    single = table["finding"] != "macro"
    table.loc[single, "p_holm"] = holm(table.loc[single, "p"].to_numpy())
    return table[columns]


def _gap(within, others, metric, thresholds, resampling) -> pd.DataFrame:
    """One group against all others: a table of differences with the columns of an audit."""
    (having, scarcest), (having_others, scarcest_others) = count_patients(within), count_patients(others)
    enough = np.minimum(scarcest, scarcest_others)[:-1] >= _LEAST_PATIENTS
    name = "sensitivity" if metric == "miss_rate" else metric
    table = group_difference(within, others, name, thresholds, resampling, include=enough)
    if metric == "miss_rate":
        low, high = -table["high"], -table["low"]
        table = table.assign(a=1 - table["a"], b=1 - table["b"], difference=-table["difference"], low=low, high=high)
    for k in np.flatnonzero(~enough):
        sides = (scarcest[k], having[k], "in the group"), (scarcest_others[k], having_others[k], "among the others")
        fewest, of, where = min(sides, key=lambda side: side[0])
        note = f"{fewest} patients {'with' if fewest == of else 'without'} it {where}, fewer than {_LEAST_PATIENTS}"
        table.loc[FINDINGS[k], "note"] = note
    table = table.assign(patients=having, patients_others=having_others)
    return table.rename(columns={"a": "value", "b": "others", "difference": "gap"})


def against_experts(predictions: Predictions, experts: pd.DataFrame, replicates=1000, seed=0) -> pd.DataFrame:
    """AUROC of the same scores on the same images by mined and by expert labels: one row per finding of the experts.

    experts: image and 0 / 1 columns (NaN: unknown); those of EXPERT_TASKS are compared with any of the corresponding
    findings: their labels, and the probability of at least one if they were independent.
    Columns: images, mined and expert (positives), auroc_mined, auroc_expert, difference (expert - mined), low, high, p,
    note. Undefined, with a note, with fewer than 10 images with it, or without it, by either.
    """
    both = predictions.take(np.isin(predictions.image, experts["image"]))
    experts = experts.set_index("image").loc[both.image]
    tasks = EACH | EXPERT_TASKS
    rows = {}
    for name in experts.columns.intersection(list(tasks), sort=False):
        k = [FINDINGS.index(member) for member in tasks[name]]
        known, mined, expert = both_known(both.labels[:, k], experts[name].to_numpy())
        shared = both.take(known)
        rows[name] = {"images": len(shared), "mined": mined.sum(), "expert": expert.sum()}
        least = min(count for one in (mined, expert) for count in (one.sum(), (one == 0).sum()))
        if least < _LEAST_POSITIVES:
            rows[name]["note"] = f"{least} images with or without it by one of the two, fewer than {_LEAST_POSITIVES}"
            continue
        columns = (1 - (1 - shared.scores[:, k]).prod(axis=1), expert, mined)
        # one question, in the first of fourteen columns; zeros in the others
        score, *labels = (np.pad(one[:, None], ((0, 0), (0, len(FINDINGS) - 1))) for one in columns)
        a, b = (replace(shared, scores=score, labels=one) for one in labels)
        found = group_difference(a, b, "auroc", resampling=Bootstrap(replicates, seed)).iloc[0]
        rows[name] |= found.rename({"a": "auroc_expert", "b": "auroc_mined"}).to_dict()
    columns = ["images", "mined", "expert", "auroc_mined", "auroc_expert", "difference", "low", "high", "p", "note"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("finding")
