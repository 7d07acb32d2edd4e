"""Heat maps against boxes: whether the peak lies in a box, and how much of the heat and of the region does.

A case is a finding on an image, with all its boxes. Its map is measured by

    pointing   1 where its peak lies in a box (Zhang et al. 2018, the pointing game, without a tolerance)
    energy     share of the map's sum inside the boxes (Wang H. et al. 2020)
    iou        of the detected box and the box that fits it best: intersection / union
    iobb       intersection / detected box (Wang X. et al. 2017)
    iou_region, ior   the same two of the region itself, pixel by pixel, with all boxes (Li et al. 2018)

The region is where the map reaches half of its highest value, connected to the peak; the detected box is drawn around
it. Of the last four, the share of cases above .1, .3, .5 and .7 is reported. An empty map scores 0 and counts.
"""

import zlib

import numpy as np
import pandas as pd
import scipy  # scipy.ndimage is imported where it is used, since figures only need `peak`

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import BOX_FRAME
from cxrlib.evaluation import bootstrap

OVERLAPS = ("iou", "iobb", "iou_region", "ior")
ABOVE = (0.1, 0.3, 0.5, 0.7)
METRICS = ("pointing", "energy", *(f"{name}>{above}" for name in OVERLAPS for above in ABOVE))


def box_cases(boxes: pd.DataFrame, entries: pd.DataFrame) -> pd.DataFrame:
    """One row per image and finding with a box: image, patient, finding, boxes (m, 4) of x, y, w, h.

    boxes: of `read_boxes`; those on other images than the entries are left out. Raises InputError where none is left.
    """
    here = boxes[["image", "finding", "x", "y", "w", "h"]].merge(entries[["image", "patient"]], on="image")
    if here.empty:
        raise InputError(f"none of the {len(boxes)} boxes is on one of these {len(entries)} images; expected the "
                         "images of BBox_List_2017.csv, which are in NIH's official test part")  # fmt: skip
    of_cases = here.groupby(["image", "patient", "finding"])[["x", "y", "w", "h"]]
    return of_cases.apply(pd.DataFrame.to_numpy).rename("boxes").reset_index()


def coverage(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The share of each pixel that a box covers, (h, w): pixel (i, j) spans [j, j + 1) x [i, i + 1) / size."""
    spans = []
    for start, length, pixels in ((box[1], box[3], size[0]), (box[0], box[2], size[1])):
        edges = np.arange(pixels + 1) * BOX_FRAME / pixels
        spans.append(np.diff(edges.clip(start, start + length)) * pixels / BOX_FRAME)
    return np.outer(*spans)


def peak(heat: np.ndarray) -> tuple[float, float]:
    """The place (x, y) of a map's highest value in the 1024-pixel frame; the mean place where several have it."""
    places = np.nonzero((heat >= heat.max() * (1 - 1e-5)).T)  # four pixels share the centre of an even cell
    return tuple(float(at.mean() + 0.5) * BOX_FRAME / pixels for at, pixels in zip(places, heat.T.shape, strict=True))


def measure(heat: np.ndarray, boxes: np.ndarray) -> dict[str, float]:
    """One map (h, w) >= 0 against the boxes (m, 4) of its case: pointing, energy, and the four overlaps in [0, 1]."""
    if not heat.max() > 0:
        return dict.fromkeys(("pointing", "energy", *OVERLAPS), 0.0)
    covered = [coverage(box, heat.shape) for box in boxes]
    truth = np.max(covered, axis=0)
    labels, _ = scipy.ndimage.label(heat >= 0.5 * heat.max())
    region = labels == labels[np.unravel_index(heat.argmax(), heat.shape)]
    detected = np.zeros(heat.shape)
    detected[scipy.ndimage.find_objects(region.astype(int))[0]] = 1
    away = np.abs(peak(heat) - boxes[:, :2] - boxes[:, 2:] / 2) - boxes[:, 2:] / 2  # (m, 2), below 0 inside
    return {
        "pointing": float((away <= 0).all(axis=1).any()),
        "energy": float((heat * truth).sum() / heat.sum()),
        "iou": max(_iou(detected, one) for one in covered),
        "iobb": float((detected * truth).sum() / detected.sum()),
        "iou_region": _iou(region, truth),
        "ior": float((region * truth).sum() / region.sum()),
    }


def _iou(detected: np.ndarray, truth: np.ndarray) -> float:
    both = (detected * truth).sum()
    return float(both / (detected.sum() + truth.sum() - both))


def measure_all(maps: np.ndarray, cases: pd.DataFrame) -> pd.DataFrame:
    """One row per case: image, patient, finding and METRICS, those above a threshold as 0 or 1. maps: (n, h, w)."""
    rows = [measure(np.asarray(heat, float), own) for heat, own in zip(maps, cases["boxes"], strict=True)]
    table = cases[["image", "patient", "finding"]].join(pd.DataFrame(rows, index=cases.index))
    above = {f"{name}>{share}": (table[name] > share).astype(float) for name in OVERLAPS for share in ABOVE}
    return table.drop(columns=[*OVERLAPS]).assign(**above)


def score_boxes(maps: np.ndarray, cases: pd.DataFrame, controls: dict, replicates: int = 1000) -> pd.DataFrame:
    """How well maps and controls find the boxes: one row per kind of map, finding (last: their mean, macro) and metric.

    maps: (n, h, w), one for each row of `box_cases`. controls: name -> maps of the same cases; "chance" is added.
    Columns: maps ("model" or a control), finding, metric (METRICS), cases, patients, value, low, high (95 % interval
    over patients, the same draws for all); of controls ahead, ahead_low, ahead_high: the model's value minus theirs.
    """
    flat = measure_all([np.ones((256, 256))] * len(cases), cases)  # a random point is in the boxes' share of the image
    measured = {"model": measure_all(maps, cases), "chance": flat.assign(pointing=flat["energy"])}
    measured |= {name: measure_all(others, cases) for name, others in controls.items()}
    findings = [name for name in FINDINGS if name in set(cases["finding"])]
    finding = cases["finding"].map(findings.index).to_numpy()
    names, patient = np.unique(cases["patient"].to_numpy(), return_inverse=True)
    counts = bootstrap.patient_sums(finding, patient, (len(findings), len(names))).toarray()
    weights = bootstrap.draw_patients(len(names), replicates, seed=0).T.astype(np.float64)
    each = {name: _resampled(table, counts, finding, patient, weights) for name, table in measured.items()}

    index = pd.MultiIndex.from_product([[*findings, "macro"], METRICS], names=["finding", "metric"])
    patients = np.repeat([*(counts > 0).sum(axis=1), len(names)], len(METRICS))
    number = np.repeat([*np.bincount(finding), len(cases)], len(METRICS))
    tables = {}
    for name, (value, drawn, (low, high)) in each.items():
        columns = {"cases": number, "patients": patients, "value": value, "low": low, "high": high}
        if name != "model":
            ahead = each["model"][0] - value
            low, high = bootstrap.interval(each["model"][1] - drawn, ahead, patients)
            columns |= {"ahead": ahead, "ahead_low": low, "ahead_high": high}
        tables[name] = pd.DataFrame(columns, index=index)
    return pd.concat(tables, names=["maps"]).reset_index()


def _resampled(table, counts, finding, patient, weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, replicates (r, .) and ends (2, .) of each finding and metric, flat, then of each metric's macro."""
    values, shape = table[[*METRICS]].to_numpy(), (len(counts), len(METRICS))
    counts = np.repeat(counts, len(METRICS), axis=0)
    row = finding[:, None] * len(METRICS) + np.arange(len(METRICS))
    patient = np.repeat(patient, len(METRICS))
    sums = bootstrap.patient_sums(row.ravel(), patient, counts.shape, values.ravel()).toarray()
    point = bootstrap.ratio(sums.sum(axis=1), counts.sum(axis=1))
    drawn = bootstrap.ratio(sums @ weights, counts @ weights).T
    patients, having, lacking = map(bootstrap.effective_number, (counts, sums, counts - sums))
    whole = np.tile(np.isin(values, (0, 1)).all(axis=0), shape[0])
    most, carriers = (np.where(whole, n, np.inf) for n in (counts.sum(axis=1), np.minimum(having, lacking)))
    ends = bootstrap.limits(drawn, point, bootstrap.Support(patients, most, carriers, whole))
    seeds = [(0, place, zlib.crc32(values.tobytes())) for place in range(len(point))]
    free = bootstrap.leave_ends(drawn, point, patients, seeds)
    macros = np.where(np.isnan(free), point, free).reshape(-1, *shape).mean(axis=1)
    macro = point.reshape(shape).mean(axis=0)
    macro_ends = bootstrap.interval(macros, macro, np.full(len(macro), weights.shape[0]))
    return np.append(point, macro), np.hstack([free, macros]), np.hstack([ends, macro_ends])


def interval_table(table: pd.DataFrame) -> pd.DataFrame:
    """The pointing game of `score_boxes` as text: a row per finding, a column per kind of map, "0.62 [0.55, 0.69]"."""
    rows = table[table["metric"] == "pointing"]
    text = ["{:.2f} [{:.2f}, {:.2f}]".format(*row) for row in rows[["value", "low", "high"]].to_numpy()]
    shown = rows.assign(text=text).pivot_table("text", ["finding", "cases"], "maps", "first", sort=False)
    return shown.rename_axis(columns=None)
