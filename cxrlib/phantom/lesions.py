"""A lesion, and the shapes that lesions are drawn with: smooth random maps, clouds and balls."""

from dataclasses import dataclass

import numpy as np

from cxrlib.phantom.grid import enlarged


@dataclass
class Lesion:
    """One finding of one patient at one visit. Side, place and seed are constant over the patient's visits."""

    finding: str
    strength: float  # 0 (hardly visible) to 1 (gross)
    side: int  # 0 right, 1 left
    place: tuple  # two numbers from 0 to 1, across and along the lung
    seed: int  # for the fine structure


def between(low, high, value):
    """Linear interpolation: `low` at 0, `high` at 1."""
    return low + (high - low) * value


def patches(scene, rng, cells):
    """A smooth random map, about 0 to 1, with about `cells` blobs along each side."""
    return enlarged(rng.random((cells + 2, cells + 2), dtype=np.float32), scene.size)


def cloud(scene, rng, place, axes, border):
    """An ill-defined cloud in one lung: a map from 0 to 1.

    `place` is (side, across, down), as in `Scene.in_lung`; `axes` are the horizontal and the vertical half axis in cm;
    `border` is the softness and the roughness of the border, relative to them.
    """
    x, y = scene.in_lung(*place)
    softness, rough = border
    q = ((scene.x - np.float32(x)) / np.float32(axes[0])) ** 2 + ((scene.y - np.float32(y)) / np.float32(axes[1])) ** 2
    coarse = np.float32(rough) * (patches(scene, rng, 14) - 0.5)
    ragged = np.sqrt(q) + coarse + np.float32(0.3 * rough) * (patches(scene, rng, 40) - 0.5)
    return np.clip((1 - ragged) / np.float32(softness), 0, 1)


def ball(scene, centre, radius, rng, lobes):
    """Adds a sphere of soft tissue, whose border waves by the share `lobes` of its radius; returns its mask."""
    x, y = centre
    window = scene.window(x, y, 1.5 * radius, 1.5 * radius)
    dx, dy = scene.x[window] - x, scene.y[window] - y
    angle = np.arctan2(dy, dx)
    border = 1 + lobes * sum(np.sin(k * angle + rng.uniform(0, 6.3)) / k for k in (2, 3, 5))
    inside = np.maximum(1 - (dx * dx + dy * dy) / (radius * border) ** 2, 0)
    scene.soft[window] += (1.4 * radius + 1.0) * np.sqrt(inside)
    mask = np.zeros(scene.x.shape, dtype=bool)
    mask[window] = inside > 0
    return mask
