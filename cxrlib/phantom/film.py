"""One radiograph of a patient: projection of the scene, devices, texture, exposure, and burnt-in text."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxrlib.phantom.patients import draw_exposure
from cxrlib.phantom.scene import OUTWARDS, Pen, Scene, enlarged
from cxrlib.phantom.signs import PAINTERS, reshape

SOFT = 0.19  # attenuation of soft tissue, 1 / cm, at the effective energy of a chest exposure
BONE = 0.36  # further attenuation of bone, 1 / cm
LUNG = 0.27  # density of aerated lung relative to soft tissue


class Machine(NamedTuple):
    """How the radiographs of a hospital are taken and marked."""

    noise: float = 1.0  # standard deviation of the quantum noise, relative
    sharpness: float = 1.0  # cells of the detector per pixel, along each side
    edges: float = 1.0  # enhancement of edges, relative
    lungs: float = 0.0  # added to the grey level of the lungs
    mediastinum: float = 0.0  # and to that of the mediastinum
    borders: float = 0.3  # share of the films with a collimator's border
    plate: bool = False  # whether the side marker is a dark letter on a bright plate


MACHINES = {
    "first": Machine(),
    "second": Machine(noise=2, sharpness=0.6, edges=0.3, lungs=22, mediastinum=-18, borders=0.9, plate=True),
}


def render(patient, view, lesions, size, rng, drain=-1, machine=MACHINES["first"]):
    """One radiograph, (size, size) uint8 from 0 (air) to 255, with its boxes and masks.

    `view` is "PA" or "AP"; `lesions` has at most one Lesion per finding; `rng` decides what differs between exposures;
    `drain` is the side of a chest tube (0 right, 1 left) or -1. The boxes are {finding: [(x, y, w, h)]} in pixels, the
    masks (size, size) bool of lungs, heart, devices and letters.
    """
    exposure = draw_exposure(rng, patient, view)
    for lesion in lesions:
        reshape(exposure, lesion)
    scene = Scene(patient, exposure, size)
    boxes = {}
    for lesion in sorted(lesions, key=lambda lesion: list(PAINTERS).index(lesion.finding)):
        masks = PAINTERS[lesion.finding](scene, lesion, np.random.default_rng(lesion.seed)) or []
        boxes[lesion.finding] = [box for mask in masks if (box := _box(scene, mask))]
    devices = _devices(scene, rng, drain)
    bare = _film(scene, _attenuation(scene, rng) + devices, rng, machine)
    picture = _with_letters(scene, bare, rng, machine.plate)
    lungs, heart = np.maximum(*scene.lungs), scene.heart > 0.3 * scene.heart.max()
    masks = {"lungs": (lungs > 0.2 * lungs.max()) & ~heart, "heart": heart}
    return picture, boxes, masks | {"devices": devices > 0.1, "letters": picture != bare}


def _box(scene, mask):
    """The box (x, y, w, h) of a mask or of the heart, in pixels; None where it lies outside the film."""
    if isinstance(mask, str):
        left, right, top, bottom = scene.heart_frame
        cols, rows = np.clip(scene.pixels([left, right, left, right], [top, top, bottom, bottom]), 0, scene.size)
    else:
        rows, cols = (np.append(at, at + 1) for at in np.nonzero(mask))
    if not len(rows) or not np.ptp(cols) * np.ptp(rows):
        return None
    return tuple(float(value) for value in (cols.min(), rows.min(), np.ptp(cols), np.ptp(rows)))


def _devices(scene, rng, drain):
    """The attenuation that implants, calcified granulomas, lines, tubes and electrodes add: (size, size) float32."""
    pen, h, w = Pen(scene), scene.lung_height, scene.patient.half_width
    match scene.patient.hardware:
        case "wires":
            for k in range(6):
                pen.disc(scene.midline * 0.5 + 0.1 * (k % 2), 5 + k * 2.4, 0.42, 200, ring=0.13)
        case "pacemaker":
            pen.disc(0.72 * w, 3.2, 2.1, 235)
            lead = [(0.6 * w, 4.5), (0.35 * w, 4.0), (-1.5, 6), (-2.2, 0.5 * h), (1.0, 0.78 * h), (3.0, 0.82 * h)]
            pen.curve(lead, 0.14, 190)
        case "port":
            pen.disc(-0.66 * w, 5.0, 1.2, 130)
            pen.disc(-0.66 * w, 5.0, 1.2, 220, ring=0.25)
            pen.curve([(-0.6 * w, 4.5), (-0.3 * w, 2.5), (-2.0, 4.5), (-2.0, 0.42 * h)], 0.16, 130)
        case "clips":
            clip_rng = np.random.default_rng(scene.patient.texture + 1)
            x, y, rise = clip_rng.uniform((-4, 0.3, -0.4), (4, 0.6, 0.4), (6, 3)).T
            pen.lines(np.stack([x, x + 0.35], 1), np.stack([y * h, y * h + rise], 1), 0.14, 230)
    for side, down, across, radius in scene.patient.marks:
        pen.disc(*scene.in_lung(side, across, down), radius, 60)
    if scene.exposure.view == "AP":
        _bedside(rng, pen, h, w)
    for aside, width, grey in ((0, 0.42, 55), (0.1, 0.12, 150)) if drain >= 0 else ():  # a tube with a dense stripe
        sign = OUTWARDS[drain]
        wall = [(sign * (w + 3.5 + aside), 0.75 * h + aside), (sign * (w - 0.8 + aside), 0.62 * h + aside)]
        pen.curve([*wall, (sign * 0.8 * w + aside, 0.3 * h), (sign * 0.55 * w + aside, 0.14 * h)], width, grey)
    return 1.7 * pen.map()


def _bedside(rng, pen, h, w):
    """Electrodes with leads, a tracheal tube, a central venous catheter and a gastric tube, each at random."""
    if rng.random() < 0.8:
        electrodes = ((-0.75 * w, 1.0), (0.75 * w, 1.5), (0.85 * w, 0.85 * h), (-0.8 * w, 0.9 * h))
        for x, y in electrodes[: rng.integers(2, 5)]:
            x, y = x + rng.normal(0, 1.0), y + rng.normal(0, 1.2)
            pen.disc(x, y, 0.55, 150, ring=0.2)
            pen.disc(x, y, 0.25, 200)
            bend = rng.normal(0, 3, 2)
            lead = [(x, y), (x + bend[0], y + 0.3 * h), (x + 0.5 * bend[1], y + 0.6 * h), (x + bend[1], y + h)]
            pen.curve(lead, 0.1, 75)
    if rng.random() < 0.35:
        pen.curve([(0.1, -9), (0.2, -4), (0.2, 0.27 * h)], 0.35, 50)
    if rng.random() < 0.45:
        sign = rng.choice([-1, 1])
        pen.curve([(sign * w, 1.0), (sign * 0.5 * w, 2.2), (-1.6, 4.5), (-2.0, 0.4 * h)], 0.14, 95)
    if rng.random() < 0.25:
        pen.curve([(0.4, -9), (0.4, 0.3 * h), (0.9, 0.75 * h), (3.5, h + 4)], 0.22, 60)


def _attenuation(scene, rng):
    """The line integral of the patient's attenuation along each ray: (size, size), dimensionless."""

    def noise(rng, cells):  # about so many blobs along each side
        return enlarged(rng.standard_normal((cells, cells), dtype=np.float32), scene.size)

    lung = np.maximum(scene.lungs[0] + scene.lungs[1] - scene.heart, 0)
    still = np.random.default_rng(scene.patient.texture)
    grain = 0.55 * noise(still, 60) + 0.45 * noise(rng, 110)
    density = LUNG * scene.exposure.density * (1 + 0.16 * grain) * (1 - scene.air) + 0.02
    filled = density + (1 - density) * np.clip(scene.fill, -0.2, 1)
    share = np.clip(lung / 4, 0, 1)
    tissue = scene.body - lung * (1 - filled) + 2.0 * scene.vessels * share * (1 - 0.7 * np.clip(scene.fill, 0, 1))
    tissue += scene.soft
    split = 0.36 * scene.lung_height  # of the trachea into the main bronchi
    centre = scene.midline * 0.8 + 0.02 * (scene.y - split)
    column = np.sqrt(np.maximum(1 - np.square((scene.x - centre) / 0.85), 0)) * np.clip((split - scene.y) * 2 + 1, 0, 1)
    tissue -= 1.7 * column * np.clip((scene.y + 9) / 6, 0, 1)
    for run in (-3.0, 4.2):
        window, away = scene.segment((scene.midline, split), (scene.midline + run, split + 2.6), 0.7)
        tissue[window] -= 1.2 * np.sqrt(np.maximum(1 - np.square(away / 0.65), 0))
    x, radius, flat = scene.patient.bubble  # air in the stomach, under the left dome, and sometimes in the bowel
    radius *= rng.uniform(0.6, 1.2)
    bubbles = [(x, radius, flat)] if radius > 1 else []
    bubbles += rng.uniform((-8, 0.8, 0.5), (9, 1.8, 1.2), (rng.poisson(0.6), 3)).tolist()
    for n, (x, radius, flat) in enumerate(bubbles):
        top = float(scene.dome(1, np.float32(abs(x)))) + 0.8 + (0 if n == 0 else rng.uniform(2, 9))
        window, inside = scene.ellipse(x, top + flat * radius, radius, flat * radius)
        tissue[window] -= (5.0 if n == 0 else 2.5) * np.sqrt(inside) * np.clip(radius / 3, 0.3, 1)
    tissue += (0.35 * noise(still, 12) + 0.12 * noise(still, 40)) * np.clip(scene.body * 0.1, 0, 1)
    return SOFT * np.maximum(tissue, 0) + BONE * scene.bone


def _blurred(image, cells):
    """The image averaged over cells x cells blocks and interpolated back to its size."""
    return enlarged(np.asarray(Image.fromarray(image).resize((cells, cells), Image.BOX)), len(image))


def _film(scene, attenuation, rng, machine):
    """Scatter, quantum noise, the tone curve of a digital film, and collimation: (size, size) uint8."""
    portable = scene.exposure.view == "AP"
    light = np.exp(-attenuation)
    scatter = rng.uniform(0.35, 0.6) if portable else rng.uniform(0.12, 0.3)
    light = light + scatter * np.maximum(_blurred(np.minimum(light, 0.3), 16), 0)
    if machine.sharpness < 1:
        light = _blurred(light, round(scene.size * machine.sharpness))
    quanta = rng.uniform(0.006, 0.014) * (1.4 if portable else 1.0) * machine.noise
    spread = quanta / np.sqrt(np.maximum(light, 0.01) * 10)
    light = light * (1 + rng.standard_normal(light.shape, dtype=np.float32) * spread)
    level = -np.log(np.maximum(light, 1e-4))
    level += rng.uniform(0.1, 0.45) * machine.edges * (level - _blurred(level, 40))
    step = max(1, scene.size // 64)
    dark, bright = np.percentile(level[::step, ::step][8:-8, 10:-10], [22, 88])
    grey = rng.normal((106, 203) if portable else (88, 208), (18, 12))  # of dark and bright
    grey = np.clip(grey + np.array([machine.lungs, machine.mediastinum]), (45, 170), (150, 230))
    low, high = np.log(grey / (250 - grey))
    slope = (high - low) / max(bright - dark, 0.3)
    picture = 250 / (1 + np.exp(-(low + np.float32(slope) * (level - np.float32(dark)))))
    if rng.random() < machine.borders:  # the unexposed border of a collimator
        edges = rng.uniform(0, 0.06, 4) * (rng.random(4) < 0.5)
        tilt = np.tan(rng.normal(0, 0.012))
        row, col = np.ogrid[0 : 1 : scene.size * 1j, 0 : 1 : scene.size * 1j]
        skew_col, skew_row = col + tilt * (row - 0.5), row - tilt * (col - 0.5)
        out = (skew_col < edges[0]) | (skew_col > 1 - edges[1]) | (skew_row < edges[2]) | (skew_row > 1 - edges[3])
        picture = np.where(out, rng.choice([4, 12, 245], p=[0.6, 0.3, 0.1]), picture)
    return np.clip(picture.astype(np.float32), 0, 255).astype(np.uint8)


def _with_letters(scene, picture, rng, plate):
    """A copy with the side marker burnt in, and on some AP films a word."""
    size, film, grey = scene.size, Image.fromarray(picture), int(rng.integers(200, 256))
    pen = ImageDraw.Draw(film)
    left = rng.random() < 0.8
    place = (size * rng.uniform(*((0.86, 0.94) if left else (0.04, 0.1))), size * rng.uniform(0.03, 0.14))
    font = ImageFont.load_default(size=max(8, int(size * rng.uniform(0.035, 0.055))))
    letter = {"xy": place, "text": "L" if left else "R", "font": font}
    if plate:
        pen.rectangle(pen.textbbox(**letter), fill=grey, outline=grey, width=2)
    pen.text(**letter, fill=20 if plate else grey)
    if scene.exposure.view == "AP" and rng.random() < 0.6:
        font = ImageFont.load_default(size=max(7, int(size * 0.03)))
        corner = ((0.03 if left else 0.76) * size, rng.uniform(0.05, 0.2) * size)  # opposite to the marker
        pen.text(corner, str(rng.choice(["PORTABLE", "AP", "AP ERECT", "SUPINE"])), fill=grey, font=font)
    return np.asarray(film)
