"""Heat maps against boxes: whether the peak lies in a box, and how much of the heat and of the region does.

A case is a finding on an image, with all its boxes. Its map is measured by

    pointing   1 where its peak lies in a box, or within `tolerance` of it (Zhang et al. 2018, the pointing game)
    energy     share of the map's sum inside the boxes (Wang H. et al. 2020)
    iou        of the detected box and the box that fits it best: intersection / union
    iobb       intersection / detected box (Wang X. et al. 2017)
    iou_region, ior   the same two of the region itself, pixel by pixel, with all boxes (Li et al. 2018)

The region is where the map reaches half of its highest value, connected to the peak; the detected box is drawn around
it. Of the last four, the share of cases above .1, .3, .5 and .7 is reported. An empty map scores 0 and counts.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import BOX_FRAME
from cxrlib.evaluation.bootstrap import (
    Support,
    draw_patients,
    effective_number,
    interval,
    leave_ends,
    limits,
    patient_sums,
    ratio,
)

OVERLAPS = ("iou", "iobb", "iou_region", "ior")
ABOVE = (0.1, 0.3, 0.5, 0.7)
METRICS = ("pointing", "energy", *(f"{name}>{above}" for name in OVERLAPS for above in ABOVE))


def box_cases(boxes: pd.DataFrame, entries: pd.DataFrame) -> pd.DataFrame:
    """One row per image and finding with a box: image, patient, finding, boxes, an array (m, 4) of x, y, w, h.

    boxes: as `read_boxes` gives them, 1024-pixel frame. entries: rows with image and patient; boxes on other images are
    left out. Raises InputError where none is left.
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
        inside = np.clip(edges, start, start + length)
        spans.append(np.diff(inside) * pixels / BOX_FRAME)
    return np.outer(*spans)


def peak(heat: np.ndarray) -> tuple[float, float]:
    """The place (x, y) of a map's highest value in the 1024-pixel frame; the mean place where several have it."""
    rows, columns = np.nonzero(heat >= heat.max() * (1 - 1e-5))  # four pixels share the centre of an even cell
    places = ((columns, heat.shape[1]), (rows, heat.shape[0]))
    return tuple(float(at.mean() + 0.5) * BOX_FRAME / pixels for at, pixels in places)


def measure(heat: np.ndarray, boxes: np.ndarray, tolerance: float = 0) -> dict[str, float]:
    """One map (h, w) >= 0 against the boxes (m, 4) of its case: pointing, energy, and the four overlaps in [0, 1].

    tolerance: in pixels of the 1024-pixel frame, here and in the following.
    """
    if not heat.max() > 0:
        return dict.fromkeys(("pointing", "energy", *OVERLAPS), 0.0)
    x, y = peak(heat)
    covered = [coverage(box, heat.shape) for box in boxes]
    truth = np.max(covered, axis=0)
    labels, _ = ndimage.label(heat >= 0.5 * heat.max())
    region = labels == labels[np.unravel_index(heat.argmax(), heat.shape)]
    detected = np.zeros(heat.shape)
    detected[ndimage.find_objects(region.astype(int))[0]] = 1
    away = np.abs(np.array([x, y]) - boxes[:, :2] - boxes[:, 2:] / 2) - boxes[:, 2:] / 2  # (m, 2), below 0 inside
    return {
        "pointing": float((away <= tolerance).all(axis=1).any()),
        "energy": float((heat * truth).sum() / heat.sum()),
        "iou": max(_iou(detected, one) for one in covered),
        "iobb": float((detected * truth).sum() / detected.sum()),
        "iou_region": _iou(region, truth),
        "ior": float((region * truth).sum() / region.sum()),
    }


def _iou(detected: np.ndarray, truth: np.ndarray) -> float:
    both = (detected * truth).sum()
    return float(both / (detected.sum() + truth.sum() - both))


def measure_all(maps: Sequence[np.ndarray], cases: pd.DataFrame, tolerance: float = 0) -> pd.DataFrame:
    """One row per case: image, patient, finding and METRICS, those above a threshold as 0 or 1. maps: (n, h, w)."""
    if len(maps) != len(cases):
        raise InputError(f"{len(maps)} maps cannot be scored on {len(cases)} cases; expected one map per case")
    pairs = zip(maps, cases["boxes"], strict=True)
    rows = [measure(np.asarray(heat, float), boxes, tolerance) for heat, boxes in pairs]
    table = cases[["image", "patient", "finding"]].join(pd.DataFrame(rows, index=cases.index))
    for name in OVERLAPS:
        for above in ABOVE:
            table[f"{name}>{above}"] = (table[name] > above).astype(float)
    return table.drop(columns=[*OVERLAPS])


def chance(cases: pd.DataFrame, tolerance: float = 0) -> pd.DataFrame:
    """What a map without information scores, as in `measure_all`: a flat map, whose region is the whole image.

    Its pointing is that of a random point: the share of the image that the boxes cover, with `tolerance` around them.
    """
    flat = np.ones((256, 256))
    grown = [boxes + tolerance * np.array([-1, -1, 2, 2]) for boxes in cases["boxes"]]
    pointing = [np.max([coverage(box, flat.shape) for box in boxes], axis=0).mean() for boxes in grown]
    return measure_all([flat] * len(cases), cases).assign(pointing=pointing)


def score_boxes(
    maps: np.ndarray,
    cases: pd.DataFrame,
    controls: Mapping[str, np.ndarray] | None = None,
    tolerance: float = 0,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How well maps and controls find the boxes: one row per kind of map, finding (last: their mean, macro) and metric.

    maps: (n, h, w), one for each row of `cases`, which `box_cases` makes. controls: name -> maps of the same cases;
    "chance" is added. Columns: maps ("model" or a control), finding, metric (METRICS), cases, patients, value, low,
    high (95 % interval over patients, the same draws for all), and, for a control, ahead, ahead_low, ahead_high: the
    model's value minus the control's, paired.
    """
    rows = {"model": measure_all(maps, cases, tolerance), "chance": chance(cases, tolerance)}
    for name, others in (controls or {}).items():
        if name in rows:
            raise InputError(f"a control cannot be called {name}; choose another name")
        rows[name] = measure_all(others, cases, tolerance)
    findings = [name for name in FINDINGS if name in set(cases["finding"])]
    finding = cases["finding"].map(findings.index).to_numpy()
    names, patient = np.unique(cases["patient"].to_numpy(), return_inverse=True)
    counts = patient_sums(finding, patient, (len(findings), len(names))).toarray()
    times = draw_patients(len(names), replicates, seed)
    each = {name: _resampled(table[[*METRICS]].to_numpy(), counts, finding, patient, times, seed)
            for name, table in rows.items()}  # fmt: skip

    index = pd.MultiIndex.from_product([[*findings, "macro"], METRICS], names=["finding", "metric"])
    patients = np.repeat([*(counts > 0).sum(axis=1), len(names)], len(METRICS))
    number = np.repeat([*np.bincount(finding), len(cases)], len(METRICS))
    common = {"cases": number, "patients": patients}
    tables = {}
    for name, (value, drawn, (low, high)) in each.items():
        columns = common | {"value": value, "low": low, "high": high}
        if name != "model":
            ahead = each["model"][0] - value
            low, high = interval(each["model"][1] - drawn, ahead, patients)
            columns |= {"ahead": ahead, "ahead_low": low, "ahead_high": high}
        tables[name] = pd.DataFrame(columns, index=index)
    return pd.concat(tables, names=["maps"]).reset_index()


def _resampled(values, counts, finding, patient, times, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of values (n, metrics) per finding and metric, flat, with their macros: point, replicates (r, .), ends.

    counts: (findings, p) cases of each patient; times: the draws (r, p).
    """
    sums = [patient_sums(finding, patient, counts.shape, column).toarray() for column in values.T]
    weights = times.T.astype(np.float64)
    point = np.stack([ratio(one.sum(axis=1), counts.sum(axis=1)) for one in sums], axis=1)  # (findings, metrics)
    drawn = np.stack([ratio(one @ weights, counts @ weights).T for one in sums], axis=2)  # (r, findings, metrics)
    binary = np.isin(values, (0, 1)).all(axis=0)
    rarer = np.stack([np.minimum(effective_number(one), effective_number(counts - one)) for one in sums], axis=1)
    cases, patients = counts.sum(axis=1)[:, None], np.repeat(effective_number(counts), values.shape[1])
    support = Support(
        patients,
        np.where(binary, cases, np.inf).ravel(),
        np.where(binary, rarer, np.inf).ravel(),
        (binary + 0 * cases).ravel(),
    )
    flat = point.ravel(), drawn.reshape(len(times), point.size)  # there may be none
    ends = limits(flat[1], flat[0], support)
    seeds = [(seed, k, zlib.crc32(values.tobytes())) for k in range(flat[0].size)]
    free = leave_ends(flat[1], flat[0], patients, seeds)
    filled = np.where(np.isnan(free), flat[0], free).reshape(drawn.shape)
    macro, macros = point.mean(axis=0), filled.mean(axis=1)
    macro_ends = interval(macros, macro, np.full(len(macro), counts.shape[1]))
    return np.append(flat[0], macro), np.hstack([free, macros]), np.hstack([ends, macro_ends])


def interval_table(table: pd.DataFrame, metric: str = "pointing") -> pd.DataFrame:
    """One metric of `score_boxes` as text: one row per finding, one column per kind of map, "0.62 [0.55, 0.69]"."""
    rows = table[table["metric"] == metric]
    text = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in rows[["value", "low", "high"]].to_numpy()]
    rows = rows.assign(text=text).pivot_table("text", ["finding", "cases"], "maps", "first", sort=False)
    return rows.rename_axis(columns=None)
