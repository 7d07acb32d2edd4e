"""The healthy chest of one patient in one exposure, as maps of path lengths, and a pen that draws fine lines on it.

Lengths are centimetres: x to the image's right (the patient's left) from the midline, y downwards from the apices of
the lungs. A map, (size, size) float32, holds the length of each ray inside a body. Side 0 is the patient's right.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

OUTWARDS = (-1, 1)  # sign of x from the midline to the wall, on the patient's right (side 0) and left (side 1)
_TOP, _BOTTOM, _STEP = -20.0, 60.0, 0.02  # range and step of the tables over y, cm


def enlarged(coarse, size):
    """A small float32 map, interpolated smoothly to (size, size)."""
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.BICUBIC))


class Scene:
    """One exposure of one patient: the maps `body`, `lungs` (right, left), `heart`, `bone` and `vessels`.

    The painters of `signs` change `fill`, the share of the lung's air replaced by fluid or tissue; `soft`, further soft
    tissue (negative: air in its place); and `air`, the share of lung without vessels and tissue. `x` and `y` are the
    pixels' coordinates; a window is a pair of slices around a shape, empty where that lies outside the film.
    """

    def __init__(self, patient, exposure, size):
        self.patient, self.exposure, self.size = patient, exposure, size
        width, height = exposure.field
        step = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
        cos, sin = np.cos(exposure.angle), np.sin(exposure.angle)
        to_cm = np.array([[cos * width, -sin * height], [sin * width, cos * height]])
        self._to_px = np.linalg.inv(to_cm)
        (a, b), (c, d) = to_cm.astype(np.float32)
        self.x = a * step[None, :] + b * step[:, None] + exposure.origin[0]
        self.y = c * step[None, :] + d * step[:, None] + exposure.origin[1]
        self.px_per_cm = size / width
        self.out = [-self.x, self.x]  # distance from the midline, outwards, right and left
        self.lung_height = patient.height * exposure.breath + exposure.inflate
        self.midline = exposure.turn + exposure.shift
        self.heights = np.arange(_TOP, _BOTTOM, _STEP, dtype=np.float32)
        self._row = ((self.y - _TOP) * np.float32(1 / _STEP)).astype(np.int32)
        bend = patient.scoliosis[0] * np.sin(self.heights / 12 + patient.scoliosis[1])
        self.bend = self.along(bend - bend[int((8 - _TOP) / _STEP)])
        top = 0.9 * self.lung_height
        rise = np.clip(self.heights / top, 0, 1)
        width = patient.half_width * (1 + 0.02 * exposure.inflate) * np.sqrt(1 - (1 - rise) ** patient.apex)
        self.cage_table = width * (1 + 0.004 * np.clip(self.heights - top, 0, 12))  # half width, widest above the domes
        self.cage = self.along(np.maximum(self.cage_table, 0.01))
        self._trunk()
        self._lungs()
        self._mediastinum()
        self._skeleton()
        pen = Pen(self)
        for side, tree in enumerate(patient.vessels):
            kept = tree[tree[:, 4] > np.quantile(tree[:, 4], exposure.pruning)][::-1]
            widths = kept[:, 4] * exposure.engorged
            pen.lines(*self.in_lung(side, kept[:, [0, 2]], kept[:, [1, 3]]), widths, np.clip(widths * 300, 20, 255))
        self.vessels = pen.map()
        self.fill, self.soft, self.air = np.zeros((3, size, size), np.float32)

    def pixels(self, x, y):
        """Pixel coordinates (columns, rows) of points in cm."""
        dx, dy = np.asarray(x) - self.exposure.origin[0], np.asarray(y) - self.exposure.origin[1]
        (a, b), (c, d) = self._to_px
        return (a * dx + b * dy + 0.5) * self.size, (c * dx + d * dy + 0.5) * self.size

    def window(self, x, y, wide, tall):
        """The window of a box around (x, y) with half axes `wide` and `tall`, all in cm."""
        col, row = self.pixels(x, y)
        lean = abs(math.sin(self.exposure.angle))
        across = (wide + lean * tall) * self.size / self.exposure.field[0] + 2
        down = (tall + lean * wide) * self.size / self.exposure.field[1] + 2
        bounds = [int(min(max(edge, 0), self.size)) for edge in (row - down, row + down, col - across, col + across)]
        return slice(*bounds[:2]), slice(*bounds[2:])

    def ellipse(self, x, y, a, b, tilt=0.0):
        """The window of an ellipse, and in it 1 - q, clipped at 0, where q is 0 at the centre and 1 on the border."""
        cos, sin = math.cos(tilt), math.sin(tilt)
        x, y, a, b = float(x), float(y), float(a), float(b)
        window = self.window(x, y, math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos))
        dx, dy = self.x[window] - x, self.y[window] - y
        q = np.square(dx * (cos / a) + dy * (sin / a)) + np.square(dy * (cos / b) - dx * (sin / b))
        return window, np.maximum(1 - q, 0)

    def segment(self, start, end, reach):
        """The window of all points within `reach` cm of a line segment, and in it the distance from the segment, cm."""
        (x0, y0), (x1, y1) = (map(float, point) for point in (start, end))
        dx, dy = x1 - x0, y1 - y0
        window = self.window((x0 + x1) / 2, (y0 + y1) / 2, abs(dx) / 2 + reach, abs(dy) / 2 + reach)
        x, y = self.x[window] - x0, self.y[window] - y0
        along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
        return window, np.sqrt(np.square(x - along * dx) + np.square(y - along * dy))

    def along(self, table):
        """A map of a table that is given over `heights`."""
        return table.astype(np.float32)[self._row]

    def in_lung(self, side, across, down):
        """Points (x, y) in cm from lung coordinates: across 0 midline .. 1 wall, down 0 apex .. 1 dome."""
        y = np.asarray(down) * (self.lung_height - self.patient.domes[side] - self.exposure.domes[side])
        half = np.interp(y, self.heights, self.cage_table)
        return OUTWARDS[side] * np.asarray(across) * half + self.midline * (1 - np.asarray(across)), y

    def replace_air(self, share):
        """Replaces a share of the remaining air by fluid or tissue."""
        self.fill += (1 - self.fill) * share

    def _trunk(self):
        """Neck, trunk, upper arms and breasts."""
        p, y = self.patient, self.heights
        wall = p.half_width + p.fat
        slope = np.clip((y + p.shoulder + 3.6) / 7.5, 0, 1)
        width = p.neck + (wall + 5.0 - p.neck) * (0.35 * slope**2 + 0.65 * slope**0.8)
        width -= 3.6 * np.clip((y - 6) / 6, 0, 1)  # below the armpit
        width += 0.06 * p.fat * np.clip(y - 14, 0, 15)
        depth = p.depth * (0.66 + 0.34 * np.clip((y + 4) / 14, 0, 1)) * (1 + 0.012 * np.clip(y - 16, 0, 20))
        ratio = np.square(self.x / self.along(width))
        self.body = body = self.along(depth) * np.sqrt(np.maximum(1 - ratio * ratio, 0))
        radius = 4.2 + 0.5 * p.fat
        self.upper_arms = []  # shoulder joint and elbow
        for sign in OUTWARDS:
            joint = np.array([sign * (wall + 0.6), 3.0 - 0.4 * p.shoulder])
            elbow = joint + np.array([sign * (4.0 + 2.0 * p.arms), 17.0])
            self.upper_arms.append((joint, elbow))
            window, away = self.segment(joint, elbow, radius)
            body[window] = np.maximum(body[window], 2.0 * np.sqrt(np.maximum(radius * radius - away * away, 0)))
        bx, by, r = p.breast_place
        for sign in OUTWARDS if p.breast else ():
            window, inside = self.ellipse(sign * bx, by, r, r * 0.95)
            low = np.clip((self.y[window] - by) / r * 0.6 + 0.65, 0.0, 1)
            body[window] += p.breast * 1.7 * low * np.sqrt(inside)

    def dome(self, side, out):
        """The diaphragm's y (cm) at distances `out` (cm) from the midline."""
        p, e = self.patient, self.exposure
        lateral = out / p.half_width - 0.46
        sag = np.where(lateral > 0, np.float32(17.0), np.float32(7.0)) * lateral * lateral
        return self.lung_height - p.domes[side] - e.domes[side] + p.dome_curve * e.flatten * sag

    def _lungs(self):
        """Both lungs, and the height of each pixel above the domes, cm."""
        depth = self.along(0.74 * self.patient.depth * np.clip((self.heights + 0.4) / 10, 0, 1) ** 0.6)
        medial = self.along(1.4 + 0.5 * np.clip(1 - self.heights / 10, 0, 1))
        self.lungs, self.above = [], []
        for side, out in enumerate(self.out):
            ratio = out / self.cage
            lung = depth * np.sqrt(np.maximum(1 - ratio * ratio, 0)) * np.clip((out - medial) * 0.8, 0, 1)
            above = self.dome(side, out) - self.y
            sharp = np.clip(above * 3.0 + 0.5, 0, 1)
            lung *= sharp * (0.6 + 0.4 * np.sqrt(np.clip(above * 0.2, 0, 1)))
            behind = depth * 0.10 * np.clip(1 + above * 0.25, 0, 1) * (1 - sharp)
            lung += behind * np.clip((0.95 - ratio) * 8, 0, 1)  # the part behind the dome
            self.lungs.append(lung * (out > 0))
            self.above.append(above)

    def _mediastinum(self):
        """Heart, great vessels and hila; `heart_frame` is the heart's box: left, right, top, bottom in cm."""
        p, e = self.patient, self.exposure
        height, turn, aorta = self.lung_height, self.midline, p.unfolding
        wide, tall = e.heart_scale[0] * p.heart, e.heart_scale[1] * p.heart
        rx, ra = turn - 0.9, 3.4 * (0.4 + 0.6 * wide)  # centre and half width of the right atrium
        lx, la = turn + 0.42 * (5.6 * wide), 5.6 * wide  # and of the left ventricle
        y, b = height - 3.3 * tall + 2.0 * (1 - e.breath), 4.9 * tall
        self.heart_frame = (rx - ra, lx + la, y - b, y + b)
        bodies = [  # x, y, half axes, tilt, depth: right atrium, left ventricle, great vessels, arch, outflow, aorta
            (rx, y - 0.3, ra, b * 1.1, 0.12, 12.0),
            (lx - 0.3, y + 0.2, la * 1.15, b * 0.80, p.tilt, 13.5),
            (turn + 1.3, y - 0.55 * b, 3.3, 1.05 * b, -0.35, 11.0),
            (turn + 0.2 - 0.25 * aorta, 0.38 * height, p.mediastinum * 1.15, 0.44 * height, 0.0, 11.0),
            (turn + 1.55 + 0.3 * aorta, 0.27 * height, p.knob * 1.05, p.knob * 1.15, 0.0, 8.0),
            (turn + 1.9, 0.42 * height, 2.3, 3.4, -0.25, 9.0),
            (turn + 1.2 + 0.5 * aorta, 0.66 * height, 1.9 + 0.25 * aorta, 0.5 * height, 0.0, 5.0),
        ]
        heart = np.zeros_like(self.x)
        for *shape, thick in bodies:
            window, inside = self.ellipse(*shape)
            heart[window] += np.square(thick * thick * inside)
        self.heart = heart = np.sqrt(np.sqrt(heart))  # a smooth union: the fourth root of the sum of fourth powers
        for side, sign in enumerate(OUTWARDS):  # hila
            hilum = (0.47 - 0.04 * side) * height
            window, inside = self.ellipse(turn + sign * 3.4, hilum, 1.5 * e.engorged, 2.5, sign * 0.35)
            heart[window] += 3.0 * e.engorged * inside

    def _skeleton(self):
        """Ribs, spine, clavicles and shoulders."""
        p = self.patient
        inside = np.clip((self.cage + 0.7 - np.abs(self.x)) * 2, 0, 1) * np.clip(self.y * 0.5 + 1, 0, 1)
        inside *= np.clip(1.2 - (self.y - self.lung_height) * 0.14, 0.12, 1)
        out = np.abs(self.x - self.bend)
        back = self.y - p.rib_drop * np.square(np.maximum(out - 2.5, 0))
        far = np.maximum(p.half_width - out, 0)
        ahead = self.y - 0.42 * far - 0.028 * far * far - 3.0
        cartilage = np.clip((out - 0.33 * p.half_width) * 0.5, 0, 1)
        bone = np.zeros_like(self.x)
        for levels, strength, weight in ((back, 1.0, 1.0), (ahead, 0.55, cartilage)):
            index = ((np.clip(levels, -12, 50) - _TOP) * np.float32(1 / _STEP)).astype(np.int32)
            tables = [self._rib_table(side, strength)[index] for side in (0, 1)]
            bone += np.where(self.x < self.bend, *tables) * weight * inside
        spine = np.abs(self.x - self.bend - 0.3 * self.exposure.turn)
        half = self.along(1.5 + 0.022 * np.clip(self.heights + 5, 0, 40))
        level = self.heights / (2.15 + 0.025 * np.clip(self.heights, 0, 40)) % 1.0  # within one vertebra
        disc = 1 - 0.35 * np.exp(-((level - 0.5) ** 2) / 0.012)
        process = self.along(0.5 * np.exp(-((level - 0.2) ** 2) / 0.03)) * np.exp(-((spine / 0.35) ** 2))
        bone += np.sqrt(np.maximum(1 - (spine / half) ** 4, 0)) * self.along(0.75 * disc) + 0.4 * process
        level, slope, bow, half = p.clavicle
        out = np.abs(self.x)
        centre = level - slope * 14 * (out / 14.0) - bow * 1.5 * np.sin(3.6 * (out / 14.0))
        q = np.abs(self.y - centre) / half
        clavicle = np.where(q < 1, 0.75 + 0.6 * q**4, 0) * np.clip((1.2 - q) * 4, 0, 1)
        bone += clavicle * np.clip((out - 1.6) * 2, 0, 1) * np.clip((p.half_width + 3 - out) * 2, 0, 1)
        for sign, (joint, elbow) in zip(OUTWARDS, self.upper_arms, strict=True):  # humerus, scapula
            window, head = self.ellipse(*joint, 2.3, 2.5)
            bone[window] += np.sqrt(head)
            window, shaft = self.segment(joint, elbow, 1.2)
            bone[window] += np.where(shaft < 1.1, 0.5 + 0.7 * (shaft / 1.1) ** 4, 0)
            tip = (sign * (p.half_width - 0.4), 12.5 + 0.4 * p.arms)
            window, blade = self.segment(joint - (sign * 2.2, -0.6), tip, 2.8)
            half = 2.6 - 2.0 * np.clip((self.y[window] - float(joint[1])) / 12, 0, 1)
            bone[window] += np.where(blade < half, 0.16 + 0.3 * np.square(np.square(blade / half)), 0)
            window, crest = self.segment(joint - (sign * 0.3, 2.2), joint - (sign * 7.0, -0.4), 0.6)
            bone[window] += np.where(crest < 0.5, 0.35, 0)
        self.bone = bone * p.bone

    def _rib_table(self, side, strength):
        """Bone by level, cm: hollow tubes, so brighter at both borders."""
        p, table = self.patient, np.zeros_like(self.heights)
        for rib in range(12):
            centre = 0.3 + p.rib_shift + rib * p.rib_spacing * (self.lung_height / 23) * (0.93 + 0.016 * rib)
            half = 0.52 * p.rib_widths[side, rib] + 0.012 * rib
            near = slice(*np.searchsorted(self.heights, (centre - half, centre + half)))
            q = np.square((self.heights[near] - centre) / half)
            table[near] += strength * (0.46 + 0.28 * q * q) * np.clip((1.25 - np.sqrt(q)) * 4, 0, 1)
        return table


class Pen:
    """Draws on a canvas of twice a scene's resolution. Coordinates and widths are in cm, greys 0 to 255."""

    def __init__(self, scene):
        self._scene, self._scale = scene, 2 * scene.px_per_cm
        self._image = Image.new("L", (2 * scene.size, 2 * scene.size))
        self._draw = ImageDraw.Draw(self._image)

    def lines(self, xs, ys, widths, greys):
        """Draws n polylines of k points: `xs` and `ys` are (n, k), `widths` and `greys` (n,) or one number for all."""
        points = 2 * np.stack(self._scene.pixels(xs, ys), axis=-1).reshape(len(xs), -1)
        widths = np.broadcast_to(widths, len(xs)) * self._scale
        for line, width, grey in zip(points.tolist(), widths.tolist(), np.broadcast_to(greys, len(xs)), strict=True):
            self._draw.line(line, fill=int(grey), width=max(1, round(width)))

    def curve(self, points, width, grey):
        """Draws a smooth curve near the points (x, y): a polynomial of at most third degree."""
        t, fine = np.linspace(0, 1, len(points)), np.linspace(0, 1, 24)
        xs, ys = ([np.polyval(np.polyfit(t, at, min(3, len(t) - 1)), fine)] for at in zip(*points, strict=True))
        self.lines(xs, ys, width, grey)

    def disc(self, x, y, radius, grey, ring=0.0):
        """Draws a filled disc, or a ring of the width `ring`."""
        col, row = self._scene.pixels(x, y)
        reach = radius * self._scale
        box = [2 * col - reach, 2 * row - reach, 2 * col + reach, 2 * row + reach]
        fill, outline = (None, grey) if ring else (grey, None)
        self._draw.ellipse(box, fill, outline, max(1, round(ring * self._scale)))

    def map(self):
        """The drawing on the grid: (size, size) float32, 0 to 1."""
        return np.asarray(self._image.reduce(2), dtype=np.float32) / np.float32(255)
