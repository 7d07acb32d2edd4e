"""A lesion, and what lesions are drawn with: clouds, balls, lines and patches on the maps of a `phantom_scene`."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass
class Lesion:
    """One finding of one patient at one visit.

    strength: 0 (hardly visible) to 1 (gross). side: 0 right, 1 left. place: two numbers in 0..1, across and along.
    seed: for its fine structure. The last three stay the same over a patient's visits.
    """

    finding: str
    strength: float
    side: int
    place: tuple
    seed: int


def between(low, high, value):
    return low + (high - low) * value


def patches(scene, rng, cells):
    """Smooth random map with values of about 0 to 1 and blobs of 1/cells of the film."""
    coarse = rng.random((cells + 2, cells + 2), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((scene.size, scene.size), Image.BICUBIC))


def cloud(scene, rng, side, across, down, a, b, edge=0.35, rough=0.7):
    """An ill-defined cloud in one lung: map 0..1 around a point in lung coordinates, semi-axes a, b in cm."""
    x, y = scene.in_lung(side, across, down)
    q = ((scene.x - np.float32(x)) / np.float32(a)) ** 2 + ((scene.y - np.float32(y)) / np.float32(b)) ** 2
    ragged = (
        np.sqrt(q)
        + np.float32(rough) * (patches(scene, rng, 14) - 0.5)
        + np.float32(0.3 * rough) * (patches(scene, rng, 40) - 0.5)
    )
    return np.clip((1 - ragged) / np.float32(edge), 0, 1)


def replace(scene, share):
    """Replaces a share of the remaining air."""
    scene.fill += (1 - scene.fill) * share


def lines(scene, points, widths, greys):
    """Polylines in cm, drawn on a map of 0..1."""
    picture, pen = scene.canvas()
    for (x, y), width, grey in zip(points, widths, greys, strict=True):
        col, row = scene.pixels(x, y)
        line = [(2 * c, 2 * r) for c, r in zip(np.atleast_1d(col), np.atleast_1d(row), strict=True)]
        pen.line(line, fill=int(grey), width=max(1, round(2 * width * scene.px_per_cm)))
    return scene.reduced(picture)


def ball(scene, x, y, r, rng, lobes=0.0):
    """A sphere of soft tissue in the lung, its border with or without lobes; its mask."""
    window = scene.window(x, y, 1.5 * r)
    mask = np.zeros(scene.x.shape, dtype=bool)
    if window is None:
        return mask
    dx, dy = scene.x[window] - x, scene.y[window] - y
    angle = np.arctan2(dy, dx)
    border = 1 + lobes * sum(np.sin(k * angle + rng.uniform(0, 6.3)) / k for k in (2, 3, 5))
    inside = np.maximum(1 - (dx * dx + dy * dy) / (r * border) ** 2, 0)
    scene.soft[window] += (1.4 * r + 1.0) * np.sqrt(inside)
    mask[window] = inside > 0
    return mask
