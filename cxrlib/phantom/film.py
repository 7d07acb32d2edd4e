"""From a patient, an exposure and lesions to the picture: projection, texture, lines and tubes, film, letters."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxrlib.phantom.anatomy import draw_exposure
from cxrlib.phantom.scene import Scene
from cxrlib.phantom.signs import PAINTERS, SHAPES

SOFT = 0.19  # attenuation of soft tissue, 1 / cm, at the effective energy of a chest exposure
BONE = 0.36  # what bone adds to it
LUNG = 0.27  # density of aerated lung relative to soft tissue


def render(patient, view, lesions, size, rng, drain=None, places=None):
    """One radiograph, (size, size) uint8, 0 black (air) to 255 white; and boxes {finding: [(x, y, w, h)]} in pixels.

    patient: phantom_anatomy.Patient; view: "PA" or "AP"; lesions: phantom_lesions.Lesion, one a finding; rng decides
    what differs from one exposure to the next; drain: side (0 right, 1 left) of a chest tube, or None; places: a dict
    that takes masks (size, size) bool of lungs, heart, devices and letters.
    """
    exposure = draw_exposure(rng, patient, view)
    for lesion in lesions:
        if lesion.finding in SHAPES:
            SHAPES[lesion.finding](exposure, lesion)
    scene = Scene(patient, exposure, size)
    scene.build(rng)
    scene.air = np.zeros_like(scene.x)
    by_name = {lesion.finding: lesion for lesion in lesions}
    boxes = {}
    for finding, paint in PAINTERS.items():
        if finding in by_name:
            lesion = by_name[finding]
            masks = paint(scene, lesion, np.random.default_rng(lesion.seed))
            boxes[finding] = [box for box in (_box(scene, mask) for mask in masks) if box]
    _devices(scene, rng, drain)
    picture = _film(scene, _attenuation(scene, rng), rng)
    lettered = _letters(scene, picture, rng)
    if places is not None:
        lungs = np.maximum(scene.lungs[0], scene.lungs[1])
        places |= {"lungs": (lungs > 0.2 * lungs.max()) & (scene.heart < 0.3 * scene.heart.max()),
                   "heart": scene.heart > 0.3 * scene.heart.max(), "devices": scene.metal > 0.1,
                   "letters": lettered != np.clip(picture, 0, 255).astype(np.uint8)}  # fmt: skip
    return lettered, boxes


def _box(scene, mask):
    """x, y, w, h in pixels around a mask, or around the heart; None where nothing of it is on the film."""
    size = scene.size
    if isinstance(mask, str):
        left, right, top, bottom = scene.heart_frame()
        cols, rows = scene.pixels([left, right, left, right], [top, top, bottom, bottom])
        left, right = np.clip([cols.min(), cols.max()], 0, size)
        top, bottom = np.clip([rows.min(), rows.max()], 0, size)
    else:
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return None
        left, right, top, bottom = cols[0], cols[-1] + 1, rows[0], rows[-1] + 1
    return (
        (float(left), float(top), float(right - left), float(bottom - top)) if right > left and bottom > top else None
    )


def _noise(rng, cells, size):
    """A smooth random map with unit variance or so, and about `cells` blobs along a side."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.BICUBIC))


def _attenuation(scene, rng):
    """The line integral of attenuation along every ray: (size, size), dimensionless."""
    p, e, size = scene.patient, scene.exposure, scene.size
    lung = np.maximum(scene.lungs[0] + scene.lungs[1] - scene.heart, 0)
    still = np.random.default_rng(p.texture)
    grain = 0.55 * _noise(still, 60, size) + 0.45 * _noise(rng, 110, size)
    density = np.float32(LUNG * e.density) * (1 + 0.16 * grain)
    density = density * (1 - scene.air) + 0.02
    filled = density + (1 - density) * np.clip(scene.fill, -0.2, 1)
    share = np.clip(lung / 4, 0, 1)
    tissue = scene.body - lung * (1 - filled) + 2.0 * scene.vessels * share * (1 - 0.7 * np.clip(scene.fill, 0, 1))
    tissue += scene.soft
    _trachea(scene, tissue)
    _bubble(scene, tissue, rng)
    tissue += (0.35 * _noise(still, 12, size) + 0.12 * _noise(still, 40, size)) * np.clip(scene.body * 0.1, 0, 1)
    return np.float32(SOFT) * np.maximum(tissue, 0) + np.float32(BONE) * scene.bone + scene.metal


def _trachea(scene, tissue):
    """Air in the windpipe and the two main bronchi."""
    split = 0.36 * scene.lung_height
    centre = np.float32(scene.midline * 0.8) + np.float32(0.02) * (scene.y - np.float32(split))
    half = 0.85
    column = np.sqrt(np.maximum(1 - np.square((scene.x - centre) / half), 0)) * np.clip((split - scene.y) * 2 + 1, 0, 1)
    tissue -= 1.7 * column * np.clip((scene.y + 9) / 6, 0, 1)
    for sign, run in ((-1, 3.0), (1, 4.2)):
        window, away = scene.from_segment((scene.midline, split), (scene.midline + sign * run, split + 2.6), 0.7)
        if window:
            tissue[window] -= 1.2 * np.sqrt(np.maximum(1 - np.square(away / 0.65), 0))


def _bubble(scene, tissue, rng):
    """Air in the stomach under the left dome and, at times, in the bowel."""
    x, r, flat = scene.patient.bubble
    r *= rng.uniform(0.6, 1.2)
    places = [(x, r, flat)] if r > 1 else []
    places += [(rng.uniform(-8, 9), rng.uniform(0.8, 1.8), rng.uniform(0.5, 1.2)) for _ in range(rng.poisson(0.6))]
    for n, (cx, radius, ratio) in enumerate(places):
        top = float(scene.dome(1, np.float32(abs(cx)))) + 0.8 + (0 if n == 0 else rng.uniform(2, 9))
        window, inside = scene.ellipse(cx, top + ratio * radius, radius, ratio * radius)
        if window:
            tissue[window] -= (5.0 if n == 0 else 2.5) * np.sqrt(inside) * np.clip(radius / 3, 0.3, 1)


def _devices(scene, rng, drain):
    """What is not the patient: sternal wires, pacemaker, port, clips, tubes, electrodes and their leads."""
    p = scene.patient
    picture, pen = scene.canvas()
    scale = 2 * scene.px_per_cm

    def line(xs, ys, width, grey):
        col, row = scene.pixels(np.asarray(xs), np.asarray(ys))
        pen.line(
            list(zip((2 * col).tolist(), (2 * row).tolist(), strict=True)),
            fill=grey,
            width=max(1, round(width * scale)),
        )

    def curve(points, width, grey):
        points = np.asarray(points)
        t, fine = np.linspace(0, 1, len(points)), np.linspace(0, 1, 24)
        degree = min(3, len(points) - 1)
        line(
            np.polyval(np.polyfit(t, points[:, 0], degree), fine),
            np.polyval(np.polyfit(t, points[:, 1], degree), fine),
            width,
            grey,
        )

    def disc(x, y, r, grey, ring=0.0):
        col, row = scene.pixels(x, y)
        reach = r * scale
        box = [2 * col - reach, 2 * row - reach, 2 * col + reach, 2 * row + reach]
        if ring:
            pen.ellipse(box, outline=grey, width=max(1, round(ring * scale)))
        else:
            pen.ellipse(box, fill=grey)

    h, w = scene.lung_height, p.half_width
    if p.hardware == "wires":
        for k in range(6):
            disc(scene.midline * 0.5 + 0.1 * (k % 2), 5 + k * 2.4, 0.42, 200, ring=0.13)
    elif p.hardware == "pacemaker":
        disc(0.72 * w, 3.2, 2.1, 235)
        curve(
            [(0.6 * w, 4.5), (0.35 * w, 4.0), (-1.5, 6), (-2.2, 0.5 * h), (1.0, 0.78 * h), (3.0, 0.82 * h)], 0.14, 190
        )
    elif p.hardware == "port":
        disc(-0.66 * w, 5.0, 1.2, 130)
        disc(-0.66 * w, 5.0, 1.2, 220, ring=0.25)
        curve([(-0.6 * w, 4.5), (-0.3 * w, 2.5), (-2.0, 4.5), (-2.0, 0.42 * h)], 0.16, 130)
    elif p.hardware == "clips":
        clip_rng = np.random.default_rng(p.texture + 1)
        for _ in range(6):
            x, y = clip_rng.uniform(-4, 4), clip_rng.uniform(0.3, 0.6) * h
            line([x, x + 0.35], [y, y + clip_rng.uniform(-0.4, 0.4)], 0.14, 230)
    for side, down, across, r in p.marks:
        x, y = scene.in_lung(side, across, down)
        disc(float(x), float(y), r, 60)
    if scene.exposure.view == "AP":
        _bedside(scene, rng, line, curve, disc)
    if drain is not None:
        sign = -1 if drain == 0 else 1
        curve(
            [
                (sign * (w + 3.5), 0.75 * h),
                (sign * (w - 0.8), 0.62 * h),
                (sign * 0.8 * w, 0.3 * h),
                (sign * 0.55 * w, 0.14 * h),
            ],
            0.42,
            55,
        )
        curve(
            [
                (sign * (w + 3.6), 0.75 * h + 0.1),
                (sign * (w - 0.7), 0.62 * h + 0.1),
                (sign * 0.8 * w + 0.1, 0.3 * h),
                (sign * 0.55 * w + 0.1, 0.14 * h),
            ],
            0.12,
            150,
        )
    scene.metal += 1.7 * scene.reduced(picture)


def _bedside(scene, rng, line, curve, disc):
    """Monitoring and lines of a patient in bed, each at random."""
    h, w = scene.lung_height, scene.patient.half_width
    if rng.random() < 0.8:
        for x, y in ((-0.75 * w, 1.0), (0.75 * w, 1.5), (0.85 * w, 0.85 * h), (-0.8 * w, 0.9 * h))[
            : int(rng.integers(2, 5))
        ]:
            x, y = x + rng.normal(0, 1.0), y + rng.normal(0, 1.2)
            disc(x, y, 0.55, 150, ring=0.2)
            disc(x, y, 0.25, 200)
            bend = rng.normal(0, 3, 2)
            curve([(x, y), (x + bend[0], y + 0.3 * h), (x + 0.5 * bend[1], y + 0.6 * h), (x + bend[1], y + h)], 0.1, 75)
    if rng.random() < 0.35:
        curve([(0.1, -9), (0.2, -4), (0.2, 0.27 * h)], 0.35, 50)
    if rng.random() < 0.45:
        sign = rng.choice([-1, 1])
        curve([(sign * w, 1.0), (sign * 0.5 * w, 2.2), (-1.6, 4.5), (-2.0, 0.4 * h)], 0.14, 95)
    if rng.random() < 0.25:
        curve([(0.4, -9), (0.4, 0.3 * h), (0.9, 0.75 * h), (3.5, h + 4)], 0.22, 60)


def _blurred(image, cells):
    size = image.shape[0]
    small = Image.fromarray(image).resize((cells, cells), Image.BOX)
    return np.asarray(small.resize((size, size), Image.BICUBIC))


def _film(scene, attenuation, rng):
    """Scatter, quantum noise, and the tone curve of a digital film: (size, size) float32, 0 to 255."""
    portable = scene.exposure.view == "AP"
    light = np.exp(-attenuation)
    scatter = rng.uniform(0.35, 0.6) if portable else rng.uniform(0.12, 0.3)
    light = light + np.float32(scatter) * np.maximum(_blurred(np.minimum(light, 0.3), 16), 0)
    quanta = rng.uniform(0.006, 0.014) * (1.4 if portable else 1.0)
    light *= 1 + rng.standard_normal(light.shape, dtype=np.float32) * (
        np.float32(quanta) / np.sqrt(np.maximum(light, 0.01) * 10)
    )
    level = -np.log(np.maximum(light, 1e-4))
    level += np.float32(rng.uniform(0.1, 0.45)) * (level - _blurred(level, 40))
    core = level[:: max(1, scene.size // 64), :: max(1, scene.size // 64)]
    core = core[8:-8, 10:-10]
    dark, bright = np.percentile(core, [22, 88])
    low, high = rng.normal(106 if portable else 88, 18), rng.normal(203 if portable else 208, 12)
    low, high = np.clip(low, 45, 150), np.clip(high, 170, 230)
    logit = lambda grey: np.log(grey / (250 - grey))  # noqa: E731
    slope = (logit(high) - logit(low)) / max(bright - dark, 0.3)
    picture = 250 / (1 + np.exp(-(logit(low) + np.float32(slope) * (level - np.float32(dark)))))
    return _collimated(scene, picture.astype(np.float32), rng)


def _collimated(scene, picture, rng):
    """The unexposed border that the collimator leaves on some films."""
    if rng.random() < 0.3:
        size = scene.size
        edges = rng.uniform(0, 0.06, 4) * (rng.random(4) < 0.5)
        tilt = np.tan(rng.normal(0, 0.012))
        row, col = np.ogrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
        skew_col, skew_row = col + tilt * (row - 0.5), row - tilt * (col - 0.5)
        out = (skew_col < edges[0]) | (skew_col > 1 - edges[1]) | (skew_row < edges[2]) | (skew_row > 1 - edges[3])
        picture = np.where(out, np.float32(rng.choice([4, 12, 245], p=[0.6, 0.3, 0.1])), picture)
    return picture


def _letters(scene, picture, rng):
    """Burns the side marker in, and on bedside films a word."""
    size = scene.size
    film = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(film)
    grey = int(rng.integers(200, 256))
    left = rng.random() < 0.8
    x = rng.uniform(0.86, 0.94) if left else rng.uniform(0.04, 0.1)
    y = rng.uniform(0.03, 0.14)
    font = ImageFont.load_default(size=max(8, int(size * rng.uniform(0.035, 0.055))))
    pen.text((x * size, y * size), "L" if left else "R", fill=grey, font=font)
    if scene.exposure.view == "AP" and rng.random() < 0.6:
        font = ImageFont.load_default(size=max(7, int(size * 0.03)))
        x = 0.03 if left else 0.76  # across from the marker
        pen.text(
            (x * size, rng.uniform(0.05, 0.2) * size),
            str(rng.choice(["PORTABLE", "AP", "AP ERECT", "SUPINE"])),
            fill=grey,
            font=font,
        )
    return np.asarray(film)
