"""Radio-opaque objects in and on the chest: implants, calcified granulomas, lines, tubes and electrodes."""

import numpy as np

from cxrlib.phantom.grid import OUTWARDS, Pen


def draw_devices(scene, rng, drain):
    """The attenuation that all devices add: (size, size) float32. `drain`: side of a chest tube, or -1."""
    pen = Pen(scene)
    _hardware(scene, pen)
    for side, down, across, radius in scene.patient.marks:
        pen.disc(*scene.in_lung(side, across, down), radius, 60)
    if scene.exposure.view == "AP":
        _bedside(scene, rng, pen)
    if drain >= 0:
        _chest_tube(scene, pen, OUTWARDS[drain])
    return 1.7 * pen.map()


def _hardware(scene, pen):
    """What was implanted: sternal wires, a pacemaker with its lead, a port with its catheter, or surgical clips."""
    patient, h, w = scene.patient, scene.lung_height, scene.patient.half_width
    if patient.hardware == "wires":
        for k in range(6):
            pen.disc(scene.midline * 0.5 + 0.1 * (k % 2), 5 + k * 2.4, 0.42, 200, ring=0.13)
    elif patient.hardware == "pacemaker":
        pen.disc(0.72 * w, 3.2, 2.1, 235)
        lead = [(0.6 * w, 4.5), (0.35 * w, 4.0), (-1.5, 6), (-2.2, 0.5 * h), (1.0, 0.78 * h), (3.0, 0.82 * h)]
        pen.curve(lead, 0.14, 190)
    elif patient.hardware == "port":
        pen.disc(-0.66 * w, 5.0, 1.2, 130)
        pen.disc(-0.66 * w, 5.0, 1.2, 220, ring=0.25)
        pen.curve([(-0.6 * w, 4.5), (-0.3 * w, 2.5), (-2.0, 4.5), (-2.0, 0.42 * h)], 0.16, 130)
    elif patient.hardware == "clips":
        clip_rng = np.random.default_rng(patient.texture + 1)
        x, y, rise = clip_rng.uniform((-4, 0.3, -0.4), (4, 0.6, 0.4), (6, 3)).T
        pen.lines(np.stack([x, x + 0.35], 1), np.stack([y * h, y * h + rise], 1), 0.14, 230)


def _chest_tube(scene, pen, sign):
    """A tube from the chest wall to the apex, with a radio-opaque stripe."""
    h, w = scene.lung_height, scene.patient.half_width
    for aside, width, grey in ((0, 0.42, 55), (0.1, 0.12, 150)):
        wall = [(sign * (w + 3.5 + aside), 0.75 * h + aside), (sign * (w - 0.8 + aside), 0.62 * h + aside)]
        inside = [(sign * 0.8 * w + aside, 0.3 * h), (sign * 0.55 * w + aside, 0.14 * h)]
        pen.curve(wall + inside, width, grey)


def _bedside(scene, rng, pen):
    """Electrodes with leads, a tracheal tube, a central venous catheter and a gastric tube, each at random."""
    h, w = scene.lung_height, scene.patient.half_width
    if rng.random() < 0.8:
        electrodes = ((-0.75 * w, 1.0), (0.75 * w, 1.5), (0.85 * w, 0.85 * h), (-0.8 * w, 0.9 * h))
        for x, y in electrodes[: int(rng.integers(2, 5))]:
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
