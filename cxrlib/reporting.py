"""What eval and gradcam write for people: the table of metrics as text, overlays of heat maps."""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from cxrlib.cache import ImageCache
from cxrlib.findings import FINDINGS
from cxrlib.gradcam import grad_cam
from cxrlib.models import ChestXrayModel
from cxrlib.plots import plot_overlays, pretty, save_figure
from cxrlib.predictions import Predictions
from cxrlib.thresholds import Thresholds


def metrics_text(
    table: pd.DataFrame,
    thresholds: Thresholds,
    weights: str | Path,
    checkpoint: dict,
    val: Predictions,
    test: Predictions,
) -> str:
    """One line a finding: AUC, F1, threshold; then the macros; then what was measured on what, and each note."""
    lines = []
    for finding in FINDINGS:
        row = table.loc[finding]
        lines.append(
            f"{finding:<19} AUC {_figure(row, 'auroc')}  F1 {_figure(row, 'f1')}  threshold {row['threshold']:.2f}  "
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
    notes = [*zip(thresholds.notes, FINDINGS, strict=True), *zip(table["note"], FINDINGS, strict=False)]
    for note in dict.fromkeys(note for note, _ in notes if note):  # one line a note, with the findings it speaks of
        lines.append(f"# {', '.join(finding for text, finding in notes if text == note)}: {note}")
    return "\n".join(lines) + "\n"


def write_overlays(
    folder: Path,
    model: ChestXrayModel,
    checkpoint: dict,
    entries: pd.DataFrame,
    cache: ImageCache,
    boxes: pd.DataFrame | None = None,
) -> list[Path]:
    """One PNG an entry: the radiograph beside its overlay for the labelled finding with the highest score.

    An image without a finding shows the highest score of all. Boxes of that finding are drawn. Beside the PNGs,
    scores.csv holds all fourteen scores of each image. Returns the paths of the PNGs.
    """
    images = torch.from_numpy(cache.images[cache.rows(entries["image"])])[:, None]
    with torch.inference_mode():
        scores = model(images.to(model.mean.device)).sigmoid().cpu().numpy()
    thresholds = Thresholds.from_dict(checkpoint["thresholds"]).values if checkpoint["thresholds"] else None
    paths = []
    for row, (_, entry) in enumerate(entries.iterrows()):
        labels = entry[list(FINDINGS)].to_numpy(float)
        k = int(np.argmax(np.where(labels > 0, scores[row], -1 if labels.any() else scores[row])))
        heat = grad_cam(model, images[row : row + 1])[0, k].numpy()
        drawn = []
        if boxes is not None:
            mine = boxes[(boxes["image"] == entry["image"]) & (boxes["finding"] == FINDINGS[k])]
            drawn = [(box.x, box.y, box.w, box.h, "NIH's box") for box in mine.itertuples()]
        threshold = f"threshold {thresholds[k]:.2f}" if thresholds is not None else "no threshold tuned yet"
        picture = images[row, 0].numpy()
        title = f"{pretty(FINDINGS[k])}: score {scores[row, k]:.2f}, {threshold}"
        figure = plot_overlays(
            [picture] * 2,
            [np.zeros_like(heat), heat],
            [f"labelled {entry['labels'].replace('|', ', ')}", title],
            [drawn] * 2,
        )
        figure.suptitle(entry["image"], fontsize=10)
        name = f"{Path(entry['image']).stem}_{FINDINGS[k]}"
        save_figure(figure, name, folder)
        plt.close(figure)
        paths.append(folder / f"{name}.png")
    table = pd.DataFrame(scores, columns=list(FINDINGS), index=pd.Index(entries["image"], name="image"))
    write_text(folder / "scores.csv", table.to_csv(float_format="%.5f"))
    return paths


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _figure(row: pd.Series, metric: str) -> str:
    if np.isnan(row[metric]):
        return "undefined             "
    return f"{row[metric]:.4f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]"
