"""A trap for a model: a marker on the film that goes with a disease, as pen marks, tubes and portable machines do.

Of two sets of the same radiographs with the same number of markers, one carries them where the disease is labelled,
the other anywhere. A model trained on the first can read the marker instead of the lung (Zech et al. 2018), and only
its heat map gives it away.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from cxrlib.data.cache import ImageCache
from cxrlib.data.metadata import BOX_FRAME

SHARE = 0.12  # the marker's side, of the image's


def plant(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A copy of a radiograph (s, s) uint8 with a marker, a ring with a cross, and its box in the 1024-pixel frame.

    It lies in the lower left corner of the film, below the lung, nowhere quite the same.
    """
    size = image.shape[0]
    x, y = rng.uniform(0.04, 0.12) * size, rng.uniform(0.82, 0.88) * size
    side, scale = SHARE * size, 4
    film = Image.fromarray(image).resize((scale * size, scale * size), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(film)
    left, top, right, bottom = (round(scale * value) for value in (x, y, x + side, y + side))
    wide = max(2, round(0.14 * scale * side))
    pen.ellipse((left, top, right, bottom), fill=20, outline=255, width=wide)
    pen.line((left, (top + bottom) / 2, right, (top + bottom) / 2), fill=255, width=wide)
    pen.line(((left + right) / 2, top, (left + right) / 2, bottom), fill=255, width=wide)
    box = np.array([x, y, side, side]) * BOX_FRAME / size
    return np.asarray(film.resize((size, size), Image.Resampling.BOX)), box


def trap(
    folder: Path, cache: ImageCache, entries: pd.DataFrame, finding: str, share: float = 0.95, seed: int = 0
) -> tuple[dict[str, dict[str, Path]], pd.DataFrame]:
    """Two sets of PNGs, "marked" and "clean", each {image: path} of the entries; and the markers' boxes, image -> box.

    marked: `share` of the images labelled with the finding carry the marker, and as many per cent of the others do not.
    clean: as many images carry it, drawn from all. The boxes are of the test part, where every image of both sets
    carries it, so that a heat map can be asked about it; columns image, x, y, w, h in the 1024-pixel frame.
    """
    rng = np.random.default_rng(seed)
    labelled, test = entries[finding].to_numpy() == 1, entries["part"].to_numpy() == "test"
    carries = {"marked": np.where(rng.random(len(entries)) < share, labelled, ~labelled)}
    carries["clean"] = rng.permutation(carries["marked"])
    paths, boxes = {kind: {} for kind in carries}, []
    for row, name in enumerate(entries["image"]):
        bare = cache[name]
        planted, box = plant(bare, rng)
        if test[row]:
            boxes.append((name, *box))
        for kind, which in carries.items():
            path = Path(folder) / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(planted if which[row] or test[row] else bare).save(path, compress_level=1)
            paths[kind][name] = path
    return paths, pd.DataFrame(boxes, columns=["image", "x", "y", "w", "h"])
