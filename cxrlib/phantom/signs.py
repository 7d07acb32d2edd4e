"""The fourteen findings as signs on a radiograph, drawn into a healthy chest.

A finding is drawn in two steps. `reshape` changes the exposure's anatomy before the scene is built (a wide heart, flat
domes, a shifted mediastinum). The finding's painter changes the maps of the built scene: `fill`, `soft`, `air` and
`vessels`. It returns one mask per lesion, from which the boxes are made, or "heart" where the box is that of the heart.
data/README.md has the source of each sign.
"""

import numpy as np

from cxrlib.phantom.grid import OUTWARDS, Pen
from cxrlib.phantom.lesions import ball, between, cloud, patches


def reshape(e, f):
    """Changes the anatomy of an exposure by one lesion, before the scene is built."""
    outwards, wide, tall = OUTWARDS[f.side], *e.heart_scale
    match f.finding:
        case "Atelectasis":
            e.domes[f.side] += between(0.6, 2.6, f.strength)
            e.shift += outwards * between(0.1, 1.2, f.strength)
        case "Cardiomegaly":
            factor = between(1.22, 1.65, f.strength)
            e.heart_scale = (wide * factor, tall * (1 + 0.35 * (factor - 1)))
        case "Edema":
            e.engorged = max(e.engorged, between(1.05, 1.6, f.strength))
            e.heart_scale = (wide * between(1.02, 1.12, f.strength), tall)
        case "Effusion":
            e.shift -= outwards * max(0.0, f.strength - 0.55) * 1.8
        case "Emphysema":
            e.inflate += between(0.6, 4.2, f.strength)
            e.flatten = min(e.flatten, between(0.85, 0.12, f.strength))
            e.density = min(e.density, between(0.9, 0.45, f.strength))
            e.pruning = max(e.pruning, between(0.2, 0.6, f.strength))
            e.heart_scale = (wide * between(0.97, 0.80, f.strength), tall * 1.04)
        case "Fibrosis":
            e.breath *= between(0.97, 0.86, f.strength)
        case "Pneumothorax":
            e.shift -= outwards * max(0.0, f.strength - 0.6) * 2.5


def _paint_atelectasis(scene, f, rng):
    """Bands of collapsed lung above a raised dome, in crowded, denser lung."""
    across, down = between(0.42, 0.72, f.place[0]), between(0.78, 0.93, f.place[1])
    x, y = scene.in_lung(f.side, across, down)
    total = np.zeros_like(scene.x)
    for band in range(1 + (f.strength > 0.35) + (f.strength > 0.7)):
        tilt = OUTWARDS[f.side] * rng.uniform(-0.35, 0.25)
        cy = y - 1.7 * band + rng.normal(0, 0.2)
        half, reach = between(0.25, 0.6, f.strength) * rng.uniform(0.7, 1.2), between(2.6, 4.6, f.strength)
        level = scene.y - cy - np.float32(tilt) * (scene.x - np.float32(x))
        end = np.clip((reach - np.abs(scene.x - np.float32(x))) / 1.2, 0, 1)
        total = np.maximum(total, np.exp(-np.square(np.square(level / np.float32(half)))) * end)
    base = np.clip(1.1 - np.hypot((scene.x - x) / 5.5, (scene.y - y - 1.0) / 3.4), 0, 1)
    lung = scene.lungs[f.side] > 1
    scene.soft += total * lung * between(0.7, 3.0, f.strength)
    scene.replace_air(np.clip(between(0.15, 0.75, f.strength) * base, 0, 0.9) * (scene.out[f.side] > 0))
    return [(np.maximum(total, base) > 0.4) & lung]


def _airspace(scene, f, rng, size, down, border):
    """An airspace opacity: its map from 0 to 1, its centre (side, across, down), and its horizontal half axis, cm.

    `size` and `down` are the ranges of the half axis and of the height; `border` is as in `cloud`.
    """
    a = between(*size, f.strength) * rng.uniform(0.85, 1.2)
    axes = (a, a * rng.uniform(0.75, 1.15))
    place = (f.side, between(0.38, 0.72, f.place[0]), between(*down, f.place[1]))
    return cloud(scene, rng, place, axes, border) * (scene.lungs[f.side] > 0.6), place, a


def _bronchogram(scene, rng, place, reach):
    """Air in the bronchi inside filled lung: branching lines away from the hilum, a map from 0 to 1."""
    hilum, (x, y) = scene.in_lung(place[0], 0.2, 0.47), scene.in_lung(*place)
    toward = np.arctan2(y - hilum[1], x - hilum[0])
    angle = toward + rng.normal(0, 0.5, (4, 1)) * np.linspace(0.2, 1.8, 6)
    way = np.linspace(0, 1.7 * reach, 6)
    xs = x - 0.9 * reach * np.cos(toward) + way * np.cos(angle)
    ys = y - 0.9 * reach * np.sin(toward) + way * np.sin(angle)
    pen = Pen(scene)
    pen.lines(xs, ys, rng.uniform(0.12, 0.22, 4), 255)
    return pen.map()


def _paint_consolidation(scene, f, rng):
    """Dense, homogeneous, lobar filling that hides vessels, with air bronchograms."""
    opacity, place, reach = _airspace(scene, f, rng, size=(3.6, 6.0), down=(0.3, 0.85), border=(0.3, 0.5))
    share = opacity * np.float32(between(0.4, 0.92, f.strength))
    scene.replace_air(share * (1 - 0.4 * _bronchogram(scene, rng, place, reach)))
    return [opacity > 0.4]


def _paint_pneumonia(scene, f, rng):
    """One focal, patchy, ill-defined opacity, mostly in a lower lobe."""
    opacity, _, _ = _airspace(scene, f, rng, size=(2.8, 5.2), down=(0.5, 0.85), border=(0.6, 1.3))
    share = opacity * np.float32(between(0.42, 0.75, f.strength))
    scene.replace_air(share * (0.55 + 0.6 * patches(scene, rng, 30)))
    return [opacity > 0.3]


def _paint_infiltration(scene, f, rng):
    """Faint, patchy, ill-defined haze with streaks along the vessels, in one lung or both."""
    across, down = between(0.35, 0.65, f.place[0]), between(0.35, 0.8, f.place[1])
    axes = between(3.4, 5.0, f.strength), between(3.6, 6.0, f.strength)
    masks = []
    for side in (0, 1) if f.seed % 3 == 0 else (f.side,):
        haze = cloud(scene, rng, (side, across, down), axes, (0.8, 1.2)) * (scene.lungs[side] > 0.6)
        patchy = np.clip(1.3 * (patches(scene, rng, 17) + patches(scene, rng, 41)) - 0.8, 0, 1)
        scene.replace_air(np.float32(between(0.22, 0.5, f.strength)) * haze * patchy)
        scene.soft += 0.8 * f.strength * haze * scene.vessels
        masks.append(haze > 0.3)
    return masks


def _paint_edema(scene, f, rng):
    """Haze around both hila (bat's wings), blurred and wide vessels, septal lines at the bases."""
    rough = 0.55 + 0.8 * patches(scene, rng, 22)
    for side in (0, 1):
        x, y = scene.in_lung(side, 0.42, 0.52)
        q = ((scene.x - x) / 4.4) ** 2 + ((scene.y - y) / 6.8) ** 2
        scene.replace_air(np.clip(np.exp(-q) * rough * between(0.12, 0.8, f.strength), 0, 0.92))
    pen = Pen(scene)
    for _ in range(int(between(3, 34, f.strength))):
        side = int(rng.integers(2))
        ends = np.array([0.97, 0.97 - rng.uniform(0.08, 0.14)])
        x, y = scene.in_lung(side, ends, np.full(2, rng.uniform(0.66, 1.02)))
        pen.lines([x], [y + np.array([0, rng.normal(0, 0.1)])], 0.1, 230)
    scene.soft += 0.9 * pen.map()
    scene.vessels *= np.float32(1 - 0.3 * f.strength)
    return []


def _paint_effusion(scene, f, rng):
    """Fluid that blunts the angle and climbs the wall (meniscus); in AP views also a veil over that lung."""
    lung, out = scene.lungs[f.side], scene.out[f.side]
    outside = np.maximum(scene.cage - out, 0)
    depth = between(0.2, 9.0, f.strength**1.6)
    angle = scene.lung_height - scene.patient.domes[f.side] + 4.2 * scene.patient.dome_curve
    climb = 1.6 + 0.5 * depth
    surface = angle - 2.2 - 0.75 * depth - climb * np.exp(-outside / (1.6 + 0.25 * depth)) + 0.12 * outside
    mask = np.clip((scene.y - surface) * 1.4 + 0.5, 0, 1) * np.clip(lung, 0, 1)
    scene.replace_air(0.95 * mask)
    scene.soft += 1.5 * mask * np.clip(depth / 3, 0.3, 1)
    if scene.exposure.view == "AP":
        veil = np.clip((scene.y - 3) / scene.lung_height, 0, 1) * between(0.1, 0.35, f.strength)
        scene.replace_air(veil * (lung > 0))
    return [(mask > 0.5) & (scene.above[f.side] > -3.5)]


def _paint_emphysema(scene, f, rng):
    """Bullae: rounded areas without vessels behind hair-thin walls, mostly in the upper lungs."""
    for _ in range(int(between(1, 6, f.strength))):
        x, y = scene.in_lung(int(rng.integers(2)), rng.uniform(0.5, 0.8), rng.uniform(0.12, 0.5))
        r = rng.uniform(1.2, 2.6)
        window, inside = scene.ellipse(x, y, r, r * rng.uniform(0.8, 1.3))
        scene.vessels[window] *= inside < 0.05
        scene.fill[window] -= 0.12 * np.sqrt(inside)
        scene.soft[window] += 0.25 * ((inside > 0) & (inside < 0.14))
    return []


def _paint_fibrosis(scene, f, rng):
    """A net of short lines at the bases and along the wall, in smaller lungs with dense rims."""
    count = int(between(70, 420, f.strength))
    side = rng.integers(0, 2, count)
    across, down = 0.98 - 0.55 * rng.beta(1.2, 2.2, count), 1.04 - 0.55 * rng.beta(1.1, 2.4, count)
    x, y = np.where(side, scene.in_lung(1, across, down), scene.in_lung(0, across, down))
    angle, length, width = rng.uniform((0, 0.25, 0.08), (np.pi, 0.75, 0.2), (count, 3)).T
    dx, dy = length * np.cos(angle), length * np.sin(angle)
    xs, ys = np.stack([x - dx, x + 0.3 * dy, x + dx], 1), np.stack([y - dy, y - 0.3 * dx, y + dy], 1)
    pen = Pen(scene)
    pen.lines(xs, ys, width, rng.integers(120, 256, count))
    lung = (scene.lungs[0] + scene.lungs[1]) > 0.8
    scene.soft += pen.map() * lung * np.float32(between(0.9, 2.2, f.strength))
    for s in (0, 1):
        rim = np.clip(1.3 - scene.above[s] / 7, 0, 1) * np.clip(scene.out[s] / scene.cage, 0, 1) ** 2
        scene.replace_air(np.clip(between(0.04, 0.4, f.strength) * rim, 0, 0.8) * (scene.out[s] > 0))
    return []


def _paint_mass(scene, f, rng):
    """A rounded opacity of more than 3 cm, often lobulated."""
    centre = scene.in_lung(f.side, between(0.35, 0.78, f.place[0]), between(0.18, 0.8, f.place[1]))
    return [ball(scene, centre, between(1.7, 4.3, f.strength), rng, rng.uniform(0.02, 0.13))]


def _paint_nodule(scene, f, rng):
    """A rounded opacity of at most 3 cm; sometimes two or three."""
    masks = []
    for n in range(1 + (f.seed % 4 == 0) + (f.seed % 8 == 0)):
        radius = between(0.65, 1.45, f.strength) * rng.uniform(0.9, 1.0)
        side = f.side if n == 0 else int(rng.integers(2))
        place = f.place if n == 0 else rng.uniform(0, 1, 2)
        centre = scene.in_lung(side, between(0.4, 0.85, place[0]), between(0.15, 0.85, place[1]))
        masks.append(ball(scene, centre, radius, rng, 0.02))
        scene.soft += 1.3 * masks[-1]
    return masks


def _paint_thickening(scene, f, rng):
    """A dense band along the chest wall and over the apex, of uneven width, and a blunt angle without a meniscus."""
    lung, out = scene.lungs[f.side], scene.out[f.side]
    width = np.float32(between(0.7, 2.0, f.strength)) * (0.4 + 1.1 * patches(scene, rng, 9))
    low, high = (0.0, 0.6) if f.place[0] < 0.5 else (0.4, 1.2)
    level = scene.y / scene.lung_height
    extent = np.clip((level - low) * 6 + 1, 0, 1) * np.clip((high - level) * 6 + 1, 0, 1)
    band = np.clip((width - (scene.cage - out)) * 2.2 + 0.5, 0, 1) * extent
    if low == 0.0:
        band = np.maximum(band, np.clip((width * 1.3 - scene.y) * 1.5 + 0.5, 0, 1) * (out > 2))
    band = band * (out > 0) * (scene.cage - out > -0.2) * (scene.above[f.side] > -2)
    scene.soft += np.float32(between(2.0, 4.5, f.strength)) * band
    return [(band > 0.4) & (lung > 0)]


def _paint_pneumothorax(scene, f, rng):
    """Air along the wall, widest at the apex: a thin pleural line, no vessels beyond it, denser lung inside it."""
    lung, out = scene.lungs[f.side], scene.out[f.side]
    gap = np.float32(between(0.9, 4.2, f.strength))
    apex = np.clip(1.15 - scene.y / np.float32(between(12, 26, f.strength)), 0, 1.3)
    edge = scene.cage - gap * (0.04 + apex) * (scene.y < scene.lung_height + 4)
    aside = out - np.float32(0.45 * scene.patient.half_width)
    top = np.float32(0.8) * gap + np.float32(0.25) * np.square(aside) / np.float32(3)
    beyond = np.minimum(edge - out, (scene.y - top) * 0.9)  # > 0 inside the collapsed lung
    air = np.clip(0.5 - beyond * 4, 0, 1) * (out > 1.5) * (lung > 0.2)
    pleura = np.exp(-np.square(beyond / np.float32(max(0.11, 0.45 / scene.px_per_cm)))) * (lung > 0.2) * (out > 1.5)
    scene.vessels *= 1 - air
    scene.air = air
    scene.soft += np.float32(0.9) * pleura
    scene.replace_air(np.float32(between(0.04, 0.25, f.strength)) * (1 - air) * (lung > 0))
    return [(air > 0.5) & (gap * apex > 0.4)]


def _paint_hernia(scene, f, rng):
    """A round bubble behind the heart at the hiatus, with a wall, and air above a fluid level."""
    r = between(2.0, 4.2, f.strength)
    x, y = scene.midline + between(-0.6, 2.4, f.place[0]), scene.lung_height - 0.3 - 0.8 * r
    window, inside = scene.ellipse(x, y, r * 1.15, r)
    level = np.clip((y + between(-0.3, 0.4, f.place[1]) * r - scene.y[window]) * 4 + 0.5, 0, 1)
    cavity = np.sqrt(np.maximum(inside - 0.16, 0))
    wall = between(1.4, 2.6, f.strength) * np.sqrt(inside)
    scene.soft[window] += wall - level * cavity * between(2.0, 8.0, f.strength)
    mask = np.zeros(scene.x.shape, dtype=bool)
    mask[window] = inside > 0
    return [mask]


PAINTERS = {  # in the order of drawing: findings that hide vessels come late
    "Cardiomegaly": lambda *_: ["heart"],  # drawn by `reshape`
    "Hernia": _paint_hernia,
    "Emphysema": _paint_emphysema,
    "Fibrosis": _paint_fibrosis,
    "Infiltration": _paint_infiltration,
    "Edema": _paint_edema,
    "Nodule": _paint_nodule,
    "Mass": _paint_mass,
    "Pneumonia": _paint_pneumonia,
    "Consolidation": _paint_consolidation,
    "Atelectasis": _paint_atelectasis,
    "Pleural_Thickening": _paint_thickening,
    "Pneumothorax": _paint_pneumothorax,
    "Effusion": _paint_effusion,
}
