"""The fourteen findings as signs on a radiograph, drawn into a healthy chest; data/README.md has each sign's source.

`reshape` changes the exposure's anatomy before the scene is built. Then the finding's painter changes its maps `fill`,
`soft`, `air` and `vessels`; it returns a mask per lesion, for the boxes, or "heart" where the box is that of the heart.
"""

from typing import NamedTuple

import numpy as np

from cxrlib.phantom.scene import OUTWARDS, Pen, enlarged


class Lesion(NamedTuple):
    """One finding of one patient at one visit. Side, place and seed are constant over the patient's visits."""

    finding: str
    strength: float  # 0 (hardly visible) to 1 (gross)
    side: int  # 0 right, 1 left
    place: tuple  # two numbers from 0 to 1, across and along the lung
    seed: int  # for the fine structure

    def grade(self, weak, gross):
        """Linear interpolation by strength."""
        return weak + (gross - weak) * self.strength


def _spot(place, across, down):
    """Lung coordinates of a place, given its range across and down the lung."""
    return tuple(low + (high - low) * at for (low, high), at in zip((across, down), place, strict=True))


def reshape(e, f):
    """Changes the anatomy of an exposure by one lesion, before the scene is built."""
    outwards, wide, tall = OUTWARDS[f.side], *e.heart_scale
    match f.finding:
        case "Atelectasis":
            e.domes[f.side] += f.grade(0.6, 2.6)
            e.shift += outwards * f.grade(0.1, 1.2)
        case "Cardiomegaly":
            factor = f.grade(1.22, 1.65)
            e.heart_scale = (wide * factor, tall * (1 + 0.35 * (factor - 1)))
        case "Edema":
            e.engorged = f.grade(1.05, 1.6)
            e.heart_scale = (wide * f.grade(1.02, 1.12), tall)
        case "Effusion":
            e.shift -= outwards * max(0.0, f.strength - 0.55) * 1.8
        case "Emphysema":
            e.inflate, e.flatten = f.grade(0.6, 4.2), f.grade(0.85, 0.12)
            e.density, e.pruning = f.grade(0.9, 0.45), f.grade(0.2, 0.6)
            e.heart_scale = (wide * f.grade(0.97, 0.80), tall * 1.04)
        case "Fibrosis":
            e.breath *= f.grade(0.97, 0.86)
        case "Pneumothorax":
            e.shift -= outwards * max(0.0, f.strength - 0.6) * 2.5


def _patches(scene, rng, cells):
    """A smooth random map, about 0 to 1, with about `cells` blobs along each side."""
    return enlarged(rng.random((cells + 2, cells + 2), dtype=np.float32), scene.size)


def _cloud(scene, rng, place, axes, softness, rough):
    """An ill-defined cloud in one lung, a map from 0 to 1; `axes`: cm; softness and roughness: of its border."""
    (x, y), (a, b) = np.float32(scene.in_lung(*place)), np.float32(axes)
    q = ((scene.x - x) / a) ** 2 + ((scene.y - y) / b) ** 2
    ragged = np.sqrt(q) + rough * (_patches(scene, rng, 14) - 0.5) + 0.3 * rough * (_patches(scene, rng, 40) - 0.5)
    return np.clip((1 - ragged) / softness, 0, 1) * (scene.lungs[place[0]] > 0.6)


def _ball(scene, centre, radius, rng, lobes):
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


def _airspace(scene, f, rng, size, down, border):
    """An opacity: its map from 0 to 1, centre (side, across, down), and half axis in cm; `size`, `down`: ranges."""
    a = f.grade(*size) * rng.uniform(0.85, 1.2)
    axes = (a, a * rng.uniform(0.75, 1.15))
    place = (f.side, *_spot(f.place, (0.38, 0.72), down))
    return _cloud(scene, rng, place, axes, *border), place, a


def _atelectasis(scene, f, rng):
    x, y = scene.in_lung(f.side, *_spot(f.place, (0.42, 0.72), (0.78, 0.93)))
    aside = scene.x - np.float32(x)
    total = np.zeros_like(scene.x)
    for band in range(1 + (f.strength > 0.35) + (f.strength > 0.7)):
        tilt = OUTWARDS[f.side] * rng.uniform(-0.35, 0.25)
        level = scene.y - (y - 1.7 * band + rng.normal(0, 0.2)) - tilt * aside
        half = np.float32(f.grade(0.25, 0.6) * rng.uniform(0.7, 1.2))
        end = np.clip((f.grade(2.6, 4.6) - np.abs(aside)) / 1.2, 0, 1)
        total = np.maximum(total, np.exp(-np.square(np.square(level / half))) * end)
    base = np.clip(1.1 - np.hypot((scene.x - x) / 5.5, (scene.y - y - 1.0) / 3.4), 0, 1)
    lung = scene.lungs[f.side] > 1
    scene.soft += total * lung * f.grade(0.7, 3.0)
    scene.replace_air(np.clip(f.grade(0.15, 0.75) * base, 0, 0.9) * (scene.out[f.side] > 0))
    return [(np.maximum(total, base) > 0.4) & lung]


def _consolidation(scene, f, rng):
    opacity, place, reach = _airspace(scene, f, rng, size=(3.6, 6.0), down=(0.3, 0.85), border=(0.3, 0.5))
    hilum, (x, y) = scene.in_lung(f.side, 0.2, 0.47), scene.in_lung(*place)
    toward = np.arctan2(y - hilum[1], x - hilum[0])
    angle = toward + rng.normal(0, 0.5, (4, 1)) * np.linspace(0.2, 1.8, 6)
    way = np.linspace(0, 1.7 * reach, 6)
    xs = x - 0.9 * reach * np.cos(toward) + way * np.cos(angle)
    ys = y - 0.9 * reach * np.sin(toward) + way * np.sin(angle)
    air = Pen(scene)  # in the bronchi, whose branches lead away from the hilum
    air.lines(xs, ys, rng.uniform(0.12, 0.22, 4), 255)
    scene.replace_air(opacity * f.grade(0.4, 0.92) * (1 - 0.4 * air.map()))
    return [opacity > 0.4]


def _pneumonia(scene, f, rng):
    opacity, _, _ = _airspace(scene, f, rng, size=(2.8, 5.2), down=(0.5, 0.85), border=(0.6, 1.3))
    scene.replace_air(opacity * f.grade(0.42, 0.75) * (0.55 + 0.6 * _patches(scene, rng, 30)))
    return [opacity > 0.3]


def _infiltration(scene, f, rng):
    spot, axes = _spot(f.place, (0.35, 0.65), (0.35, 0.8)), (f.grade(3.4, 5.0), f.grade(3.6, 6.0))
    masks = []
    for side in (0, 1) if f.seed % 3 == 0 else (f.side,):
        haze = _cloud(scene, rng, (side, *spot), axes, 0.8, 1.2)
        patchy = np.clip(1.3 * (_patches(scene, rng, 17) + _patches(scene, rng, 41)) - 0.8, 0, 1)
        scene.replace_air(f.grade(0.22, 0.5) * haze * patchy)
        scene.soft += 0.8 * f.strength * haze * scene.vessels
        masks.append(haze > 0.3)
    return masks


def _edema(scene, f, rng):
    rough = 0.55 + 0.8 * _patches(scene, rng, 22)
    for side in (0, 1):
        x, y = scene.in_lung(side, 0.42, 0.52)
        q = ((scene.x - x) / 4.4) ** 2 + ((scene.y - y) / 6.8) ** 2
        scene.replace_air(np.clip(np.exp(-q) * rough * f.grade(0.12, 0.8), 0, 0.92))
    pen = Pen(scene)
    for _ in range(int(f.grade(3, 34))):  # septal lines
        side, ends = rng.integers(2), np.array([0.97, 0.97 - rng.uniform(0.08, 0.14)])
        x, y = scene.in_lung(side, ends, np.full(2, rng.uniform(0.66, 1.02)))
        pen.lines([x], [y + np.array([0, rng.normal(0, 0.1)])], 0.1, 230)
    scene.soft += 0.9 * pen.map()
    scene.vessels *= 1 - 0.3 * f.strength


def _effusion(scene, f, rng):
    lung, out = scene.lungs[f.side], scene.out[f.side]
    outside = np.maximum(scene.cage - out, 0)
    depth = 0.2 + 8.8 * f.strength**1.6
    angle = scene.lung_height - scene.patient.domes[f.side] + 4.2 * scene.patient.dome_curve
    meniscus = (1.6 + 0.5 * depth) * np.exp(-outside / (1.6 + 0.25 * depth))
    surface = angle - 2.2 - 0.75 * depth - meniscus + 0.12 * outside
    mask = np.clip((scene.y - surface) * 1.4 + 0.5, 0, 1) * np.clip(lung, 0, 1)
    scene.replace_air(0.95 * mask)
    scene.soft += 1.5 * mask * np.clip(depth / 3, 0.3, 1)
    if scene.exposure.view == "AP":
        scene.replace_air(np.clip((scene.y - 3) / scene.lung_height, 0, 1) * f.grade(0.1, 0.35) * (lung > 0))
    return [(mask > 0.5) & (scene.above[f.side] > -3.5)]


def _emphysema(scene, f, rng):
    for _ in range(int(f.grade(1, 6))):  # bullae
        x, y = scene.in_lung(rng.integers(2), rng.uniform(0.5, 0.8), rng.uniform(0.12, 0.5))
        r = rng.uniform(1.2, 2.6)
        window, inside = scene.ellipse(x, y, r, r * rng.uniform(0.8, 1.3))
        scene.vessels[window] *= inside < 0.05
        scene.fill[window] -= 0.12 * np.sqrt(inside)
        scene.soft[window] += 0.25 * ((inside > 0) & (inside < 0.14))


def _fibrosis(scene, f, rng):
    count = int(f.grade(70, 420))
    side = rng.integers(0, 2, count)
    across, down = 0.98 - 0.55 * rng.beta(1.2, 2.2, count), 1.04 - 0.55 * rng.beta(1.1, 2.4, count)
    x, y = np.where(side, scene.in_lung(1, across, down), scene.in_lung(0, across, down))
    angle, length, width = rng.uniform((0, 0.25, 0.08), (np.pi, 0.75, 0.2), (count, 3)).T
    dx, dy = length * np.cos(angle), length * np.sin(angle)
    xs, ys = np.stack([x - dx, x + 0.3 * dy, x + dx], 1), np.stack([y - dy, y - 0.3 * dx, y + dy], 1)
    pen = Pen(scene)
    pen.lines(xs, ys, width, rng.integers(120, 256, count))
    scene.soft += pen.map() * (scene.lungs[0] + scene.lungs[1] > 0.8) * f.grade(0.9, 2.2)
    for above, out in zip(scene.above, scene.out, strict=True):
        rim = np.clip(1.3 - above / 7, 0, 1) * np.clip(out / scene.cage, 0, 1) ** 2
        scene.replace_air(np.clip(f.grade(0.04, 0.4) * rim, 0, 0.8) * (out > 0))


def _mass(scene, f, rng):
    centre = scene.in_lung(f.side, *_spot(f.place, (0.35, 0.78), (0.18, 0.8)))
    return [_ball(scene, centre, f.grade(1.7, 4.3), rng, rng.uniform(0.02, 0.13))]


def _nodule(scene, f, rng):
    masks = []
    for n in range(1 + (f.seed % 4 == 0) + (f.seed % 8 == 0)):
        radius = f.grade(0.65, 1.45) * rng.uniform(0.9, 1.0)
        side, place = (f.side, f.place) if n == 0 else (rng.integers(2), rng.uniform(0, 1, 2))
        centre = scene.in_lung(side, *_spot(place, (0.4, 0.85), (0.15, 0.85)))
        masks.append(_ball(scene, centre, radius, rng, 0.02))
        scene.soft += 1.3 * masks[-1]
    return masks


def _pleural_thickening(scene, f, rng):
    lung, out = scene.lungs[f.side], scene.out[f.side]
    width = f.grade(0.7, 2.0) * (0.4 + 1.1 * _patches(scene, rng, 9))
    low, high = (0.0, 0.6) if f.place[0] < 0.5 else (0.4, 1.2)
    level = scene.y / scene.lung_height
    extent = np.clip((level - low) * 6 + 1, 0, 1) * np.clip((high - level) * 6 + 1, 0, 1)
    band = np.clip((width - (scene.cage - out)) * 2.2 + 0.5, 0, 1) * extent
    if low == 0.0:
        band = np.maximum(band, np.clip((width * 1.3 - scene.y) * 1.5 + 0.5, 0, 1) * (out > 2))
    band = band * (out > 0) * (scene.cage - out > -0.2) * (scene.above[f.side] > -2)
    scene.soft += f.grade(2.0, 4.5) * band
    return [(band > 0.4) & (lung > 0)]


def _pneumothorax(scene, f, rng):
    lung, out = scene.lungs[f.side], scene.out[f.side]
    gap = np.float32(f.grade(0.9, 4.2))
    apex = np.clip(1.15 - scene.y / f.grade(12, 26), 0, 1.3)
    edge = scene.cage - gap * (0.04 + apex) * (scene.y < scene.lung_height + 4)
    top = 0.8 * gap + 0.25 * np.square(out - 0.45 * scene.patient.half_width) / 3
    beyond = np.minimum(edge - out, (scene.y - top) * 0.9)  # > 0 inside the collapsed lung
    where = (out > 1.5) * (lung > 0.2)
    air = np.clip(0.5 - beyond * 4, 0, 1) * where
    scene.vessels *= 1 - air
    scene.air = air
    scene.soft += 0.9 * np.exp(-np.square(beyond / max(0.11, 0.45 / scene.px_per_cm))) * where  # the pleura
    scene.replace_air(f.grade(0.04, 0.25) * (1 - air) * (lung > 0))
    return [(air > 0.5) & (gap * apex > 0.4)]


def _hernia(scene, f, rng):
    r = f.grade(2.0, 4.2)
    aside, fluid = _spot(f.place, (-0.6, 2.4), (-0.3, 0.4))
    x, y = scene.midline + aside, scene.lung_height - 0.3 - 0.8 * r
    window, inside = scene.ellipse(x, y, r * 1.15, r)
    level = np.clip((y + fluid * r - scene.y[window]) * 4 + 0.5, 0, 1)
    air = level * np.sqrt(np.maximum(inside - 0.16, 0)) * f.grade(2.0, 8.0)
    scene.soft[window] += f.grade(1.4, 2.6) * np.sqrt(inside) - air
    mask = np.zeros(scene.x.shape, dtype=bool)
    mask[window] = inside > 0
    return [mask]


PAINTERS = {  # in the order of drawing: findings that hide vessels come late
    "Cardiomegaly": lambda *_: ["heart"],  # drawn by `reshape`
    "Hernia": _hernia,
    "Emphysema": _emphysema,
    "Fibrosis": _fibrosis,
    "Infiltration": _infiltration,
    "Edema": _edema,
    "Nodule": _nodule,
    "Mass": _mass,
    "Pneumonia": _pneumonia,
    "Consolidation": _consolidation,
    "Atelectasis": _atelectasis,
    "Pleural_Thickening": _pleural_thickening,
    "Pneumothorax": _pneumothorax,
    "Effusion": _effusion,
}
