"""A shortcut for a model to learn: a marker that correlates with a finding, as chest tubes do (Zech et al. 2018)."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from cxrlib.data.cache import ImageCache
from cxrlib.data.metadata import BOX_FRAME


def plant(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A copy of a radiograph, (size, size) uint8, with a marker below the lung, and its box in the 1024-pixel frame."""
    size = image.shape[0]
    x, y = rng.uniform(0.04, 0.12) * size, rng.uniform(0.82, 0.88) * size
    side, scale = 0.12 * size, 4
    film = Image.fromarray(image).resize((scale * size, scale * size), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(film)
    left, top, right, bottom = (round(scale * value) for value in (x, y, x + side, y + side))
    wide = max(2, round(0.14 * scale * side))
    pen.ellipse((left, top, right, bottom), fill=20, outline=255, width=wide)  # a ring with a cross
    pen.line((left, (top + bottom) / 2, right, (top + bottom) / 2), fill=255, width=wide)
    pen.line(((left + right) / 2, top, (left + right) / 2, bottom), fill=255, width=wide)
    return np.asarray(film.resize((size, size), Image.Resampling.BOX)), np.array([x, y, side, side]) * BOX_FRAME / size


def trap(folder: Path, cache: ImageCache, entries: pd.DataFrame, finding: str, seed: int = 0) -> tuple:
    """Writes two sets of PNGs into `folder`, "marked" and "clean", in which different images have the marker.

    In the marked set, the marker agrees with the label of the finding in 95 % of the images; in the clean set as many
    images have it, at random. All test images have it in both sets, so that their heat maps can be examined. Returns
    {set: {image: path}}, and the boxes of the markers on test images: columns image, x, y, w, h (1024-pixel frame).
    """
    rng = np.random.default_rng(seed)
    labelled, test = entries[finding].to_numpy() == 1, entries["part"].to_numpy() == "test"
    carries = {"marked": np.where(rng.random(len(entries)) < 0.95, labelled, ~labelled)}
    carries["clean"] = rng.permutation(carries["marked"])
    paths, boxes = {kind: {} for kind in carries}, []
    for row, name in enumerate(entries["image"]):
        bare = cache[name]
        planted, box = plant(bare, rng)
        boxes.append((name, *box))
        for kind, which in carries.items():
            paths[kind][name] = path = Path(folder) / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(planted if which[row] or test[row] else bare).save(path, "PNG", compress_level=1)
    return paths, pd.DataFrame(boxes, columns=["image", "x", "y", "w", "h"])[test].reset_index(drop=True)
