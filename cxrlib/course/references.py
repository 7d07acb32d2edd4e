"""Reference results of exercises that depend on the run; not in the notebooks, so that no check shows its answer."""

from dataclasses import replace

import numpy as np
import pandas as pd

from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation import differences, metrics
from cxrlib.evaluation.predictions import Predictions
from cxrlib.explain.case_maps import average_maps
from cxrlib.explain.faithfulness import sanity
from cxrlib.explain.gradcam import default_layers
from cxrlib.explain.localization import measure_all


def width_ratio(test: Predictions, finding: str, seed: int) -> float:
    """Notebook 03: the width of an AUROC's 95 % interval (200 draws) over patients, divided by that over images."""
    widths = []
    for units in (test.patient, test.image):
        [drawn] = metrics.bootstrap(replace(test, patient=units), metrics=["auroc"], replicates=200, seed=seed)
        widths.append(np.ptp(np.nanpercentile(drawn.replicates["auroc"][:, FINDINGS.index(finding)], [2.5, 97.5])))
    return widths[0] / widths[1]


def gain(trained: Predictions, probe: Predictions, seed: int) -> pd.Series:
    """Notebook 03: the 95 % interval, low and high, of a difference in macro AUROC, from 200 draws of patients."""
    return differences.paired_difference(trained, probe, replicates=200, seed=seed).loc["macro", ["low", "high"]]


def pointing(maps: np.ndarray, cases: pd.DataFrame, chosen: np.ndarray, images: np.ndarray) -> float:
    """Notebook 06: the share of the `chosen` (images, 14) among the cases whose map (cases, h, w) peaks in its box."""
    rows, columns = pd.Index(images).get_indexer(cases["image"]), cases["finding"].map(FINDINGS.index)
    return measure_all(maps, cases)["pointing"][chosen[rows, columns]].mean()


def average_pointing(maps: np.ndarray, cases: pd.DataFrame, finding: str) -> float:
    """Notebook 06: the share of the cases of a finding whose box holds the peak of the other patients' mean map."""
    return measure_all(average_maps(maps, cases), cases)["pointing"][cases["finding"] == finding].mean()


def likeness(model, images, findings: np.ndarray, seed: int) -> list[float]:
    """Notebook 06: mean rank correlation with the first map when all is shuffled, of LayerCAM and of Grad-CAM."""
    layers = {method: default_layers(model, method) for method in ("layercam", "gradcam")}
    tables = (sanity(model, images, findings, seed, 4, method=method, layer=layers[method]) for method in layers)
    return [table.loc[table["step"] == 4, "rank"].mean() for table in tables]


def own_and_other(cases: pd.DataFrame, *kinds: np.ndarray) -> list[float]:
    """Notebook 06: of each kind of map, the share of peaks in the own boxes and in those of the one other finding."""
    two = cases.groupby("image")["finding"].transform("size") == 2
    own = cases[two]
    other = own.assign(boxes=own.groupby("image")["boxes"].transform(lambda both: [*both.iloc[::-1]]))
    return [measure_all(maps[two], boxes)["pointing"].mean() for maps in kinds for boxes in (own, other)]
