"""The drawn chest: the bodies of one patient in one exposure, as maps of path lengths.

Lengths are centimetres in the patient: x to the image's right (the patient's left) from the midline, y downwards from
the apices of the lungs. Each map holds the length of every ray inside a body; `phantom_film` turns their sum into a
picture. The maps have shape (size, size) and type float32; side 0 is the patient's right, 1 the left.
"""

import math
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

_TOP, _BOTTOM, _STEP = -20.0, 60.0, 0.02  # range and step of the tables over y, cm


class Scene:
    """One exposure of one patient on a grid of `size` pixels: the bodies' maps, and the way between cm and pixels."""

    def __init__(self, patient, exposure, size):
        self.patient, self.exposure, self.size = patient, replace(exposure), size
        self.domes_cm = None
        width, height = exposure.field
        step = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
        cos, sin = np.cos(exposure.angle), np.sin(exposure.angle)
        self._to_cm = np.array([[cos * width, -sin * height], [sin * width, cos * height]])
        self._to_px = np.linalg.inv(self._to_cm)
        (a, b), (c, d) = self._to_cm.astype(np.float32)
        self.x = a * step[None, :] + b * step[:, None] + np.float32(exposure.origin[0])
        self.y = c * step[None, :] + d * step[:, None] + np.float32(exposure.origin[1])
        self.px_per_cm = size / width
        self._row = ((self.y - _TOP) * np.float32(1 / _STEP)).astype(np.int32)
        self.heights = np.arange(_TOP, _BOTTOM, _STEP, dtype=np.float32)

    def along(self, table):
        """A map of `table`, which is given over `heights`."""
        return table.astype(np.float32)[self._row]

    def pixels(self, x, y):
        """Pixel coordinates (column, row) of points in cm."""
        dx, dy = np.asarray(x) - self.exposure.origin[0], np.asarray(y) - self.exposure.origin[1]
        (a, b), (c, d) = self._to_px
        return (a * dx + b * dy + 0.5) * self.size, (c * dx + d * dy + 0.5) * self.size

    def window(self, x, y, wide, tall=None):
        """Slices (rows, columns) that hold the box of half axes `wide`, `tall` cm around x, y, or None."""
        col, row = self.pixels(x, y)
        tall = wide if tall is None else tall
        lean = abs(math.sin(self.exposure.angle))
        across = (wide + lean * tall) * self.size / self.exposure.field[0] + 2
        down = (tall + lean * wide) * self.size / self.exposure.field[1] + 2
        bounds = [int(min(max(edge, 0), self.size)) for edge in (row - down, row + down, col - across, col + across)]
        top, bottom, left, right = bounds
        return (slice(top, bottom), slice(left, right)) if bottom > top and right > left else None

    def ellipse(self, x, y, a, b, tilt=0.0):
        """Window, and in it 1 - q where q is 1 on the ellipse's border, clipped at 0; None where it lies outside."""
        cos, sin = math.cos(tilt), math.sin(tilt)
        x, y, a, b = float(x), float(y), float(a), float(b)
        window = self.window(x, y, math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos))
        if window is None:
            return None, None
        dx, dy = self.x[window] - x, self.y[window] - y
        q = np.square(dx * (cos / a) + dy * (sin / a)) + np.square(dy * (cos / b) - dx * (sin / b))
        return window, np.maximum(1 - q, 0)

    # ---- the bodies -------------------------------------------------------------------------------------------------
    def build(self, rng):
        """Draws the healthy chest into the maps body, lungs (right, left), heart, bone, vessels."""
        p, e = self.patient, self.exposure
        self.lung_height = p.height * e.breath + e.inflate
        self.midline = e.turn + e.shift
        bend = p.scoliosis[0] * np.sin(self.heights / 12 + p.scoliosis[1])
        self.bend = self.along(bend - bend[int((8 - _TOP) / _STEP)])
        self._cage()
        self._trunk()
        self._lungs()
        self._mediastinum()
        self._skeleton()
        self.vessels = self._vessels(rng)
        self.fill = np.zeros_like(self.x)  # share of the lung's air replaced by fluid
        self.soft = np.zeros_like(self.x)  # further soft tissue, cm (negative: air in place of it)
        self.metal = np.zeros_like(self.x)

    def _cage(self):
        """Half width of the rib cage by height: pointed at the apex, widest above the domes."""
        p, e = self.patient, self.exposure
        top = 0.9 * self.lung_height
        rise = np.clip(self.heights / top, 0, 1)
        width = p.half_width * (1 + 0.02 * e.inflate) * np.sqrt(1 - (1 - rise) ** p.apex)
        self.cage_table = width * (1 + 0.004 * np.clip(self.heights - top, 0, 12))
        self.cage = self.along(np.maximum(self.cage_table, 0.01))
        self.out = [-self.x, self.x]  # distance from the midline, outwards, right and left

    def _trunk(self):
        p = self.patient
        y = self.heights
        wall = p.half_width + p.fat
        slope = np.clip((y + p.shoulder + 3.6) / 7.5, 0, 1)
        width = p.neck + (wall + 5.0 - p.neck) * (0.35 * slope**2 + 0.65 * slope**0.8)
        width -= 3.6 * np.clip((y - 6) / 6, 0, 1)  # below the armpit
        width += 0.06 * p.fat * np.clip(y - 14, 0, 15)
        depth = p.depth * (0.66 + 0.34 * np.clip((y + 4) / 14, 0, 1)) * (1 + 0.012 * np.clip(y - 16, 0, 20))
        ratio = np.square(self.x / self.along(width))
        body = self.along(depth) * np.sqrt(np.maximum(1 - ratio * ratio, 0))
        for side in (-1, 1):
            joint, elbow = self._upper_arm(side)
            radius = 4.2 + 0.5 * p.fat
            window, away = self.from_segment(joint, elbow, radius)
            if window:
                arm = 2.0 * np.sqrt(np.maximum(radius * radius - away * away, 0))
                body[window] = np.maximum(body[window], arm)
        if p.breast:
            bx, by, r = p.breast_place
            for side in (-1, 1):
                window, inside = self.ellipse(side * bx, by, r, r * 0.95)
                if window:
                    low = np.clip((self.y[window] - by) / r * 0.6 + 0.65, 0.0, 1)
                    body[window] += p.breast * 1.7 * low * np.sqrt(inside)
        self.body = body

    def _upper_arm(self, side):
        p = self.patient
        joint = np.array([side * (p.half_width + p.fat + 0.6), 3.0 - 0.4 * p.shoulder])
        return joint, joint + np.array([side * (4.0 + 2.0 * p.arms), 17.0])

    def from_segment(self, start, end, reach):
        """Window that holds all within `reach` cm of the segment from start to end, and in it the distance, cm."""
        (x0, y0), (x1, y1) = (float(v) for v in start), (float(v) for v in end)
        dx, dy = x1 - x0, y1 - y0
        window = self.window((x0 + x1) / 2, (y0 + y1) / 2, abs(dx) / 2 + reach, abs(dy) / 2 + reach)
        if window is None:
            return None, None
        x, y = self.x[window] - x0, self.y[window] - y0
        along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
        return window, np.sqrt(np.square(x - along * dx) + np.square(y - along * dy))

    def dome(self, side, out):
        """Height of the diaphragm (y, cm) at the distances `out` from the midline; side 0 right, 1 left."""
        p, e = self.patient, self.exposure
        top = self.lung_height - p.domes[side] - e.domes[side]
        curve = p.dome_curve * e.flatten
        lateral = out / np.float32(p.half_width) - np.float32(0.46)
        sag = np.where(lateral > 0, np.float32(17.0) * lateral * lateral, np.float32(7.0) * lateral * lateral)
        return top + np.float32(curve) * sag

    def _lungs(self):
        p = self.patient
        depth = self.along(0.74 * p.depth * np.clip((self.heights + 0.4) / 10, 0, 1) ** 0.6)
        medial = self.along(1.4 + 0.5 * np.clip(1 - self.heights / 10, 0, 1))
        self.lungs, self.above = [], []
        for side in (0, 1):
            out = self.out[side]
            ratio = out / self.cage
            lung = depth * np.sqrt(np.maximum(1 - ratio * ratio, 0))
            lung *= np.clip((out - medial) * np.float32(0.8), 0, 1)
            above = self.dome(side, out) - self.y
            sharp = np.clip(above * np.float32(3.0) + np.float32(0.5), 0, 1)
            lung *= sharp * (0.6 + 0.4 * np.sqrt(np.clip(above * np.float32(0.2), 0, 1)))
            lung += (
                depth
                * np.float32(0.10)
                * np.clip(1 + above * np.float32(0.25), 0, 1)
                * (1 - sharp)
                * np.clip((0.95 - ratio) * 8, 0, 1)
            )
            lung *= out > 0
            self.lungs.append(lung)
            self.above.append(above)

    def heart_frame(self):
        """The heart's box in the patient: left, right, top, bottom in cm."""
        (rx, ra), (lx, la), y, b = self._heart_bodies()
        return rx - ra, lx + la, y - b, y + b

    def _heart_bodies(self):
        p, e = self.patient, self.exposure
        wide, tall = e.heart_scale[0] * p.heart, e.heart_scale[1] * p.heart
        y = self.lung_height - 3.3 * tall + 2.0 * (1 - e.breath)
        reach = 5.6 * wide
        return (self.midline - 0.9, 3.4 * (0.4 + 0.6 * wide)), (self.midline + 0.42 * reach, reach), y, 4.9 * tall

    def _mediastinum(self):
        p, e = self.patient, self.exposure
        (rx, ra), (lx, la), y, b = self._heart_bodies()
        heart = np.zeros_like(self.x)
        height = self.lung_height
        turn, aorta = self.midline, p.unfolding
        parts = [  # x, y, half axes, tilt, depth: right atrium, left ventricle, great vessels, arch, outflow, aorta
            (rx, y - 0.3, ra, b * 1.1, 0.12, 12.0),
            (lx - 0.3, y + 0.2, la * 1.15, b * 0.80, p.tilt, 13.5),
            (turn + 1.3, y - 0.55 * b, 3.3, 1.05 * b, -0.35, 11.0),
            (turn + 0.2 - 0.25 * aorta, 0.38 * height, p.mediastinum * 1.15, 0.44 * height, 0.0, 11.0),
            (turn + 1.55 + 0.3 * aorta, 0.27 * height, p.knob * 1.05, p.knob * 1.15, 0.0, 8.0),
            (turn + 1.9, 0.42 * height, 2.3, 3.4, -0.25, 9.0),
            (turn + 1.2 + 0.5 * aorta, 0.66 * height, 1.9 + 0.25 * aorta, 0.5 * height, 0.0, 5.0),
        ]
        for cx, cy, a, c, tilt, thick in parts:
            window, inside = self.ellipse(cx, cy, a, c, tilt)
            if window:
                heart[window] += np.square(thick * thick * inside)
        np.sqrt(heart, out=heart)  # a smooth union: the fourth root of the sum of fourth powers
        np.sqrt(heart, out=heart)
        for side, sign in ((0, -1), (1, 1)):  # hila
            hy = (0.47 - 0.04 * side) * self.lung_height
            window, inside = self.ellipse(self.midline + sign * 3.4, hy, 1.5 * e.engorged, 2.5, sign * 0.35)
            if window:
                heart[window] += 3.0 * e.engorged * inside
        self.heart = heart

    def _skeleton(self):
        p = self.patient
        bone = np.zeros_like(self.x)
        tables = [self._rib_table(side, 1.0) for side in (0, 1)]
        front = [self._rib_table(side, 0.55) for side in (0, 1)]
        inside = np.clip((self.cage + np.float32(0.7) - np.abs(self.x)) * 2, 0, 1) * np.clip(self.y * 0.5 + 1, 0, 1)
        inside *= np.clip(1.2 - (self.y - self.lung_height) * 0.14, 0.12, 1)
        out = np.abs(self.x - self.bend)
        back = self.y - np.float32(p.rib_drop) * np.square(np.maximum(out - 2.5, 0))
        far = np.maximum(np.float32(p.half_width) - out, 0)
        ahead = self.y - np.float32(0.42) * far - np.float32(0.028) * far * far - np.float32(3.0)
        cartilage = np.clip((out - np.float32(0.33 * p.half_width)) * np.float32(0.5), 0, 1)
        right = self.x < self.bend
        for levels, pair, weight in ((back, tables, 1.0), (ahead, front, cartilage)):
            index = ((np.clip(levels, -12, 50) - np.float32(_TOP)) * np.float32(1 / _STEP)).astype(np.int32)
            bone += np.where(right, pair[0][index], pair[1][index]) * weight * inside
        bone += self._spine()
        bone += self._clavicles()
        for side in (-1, 1):
            self._shoulder(bone, side)
        self.bone = bone * np.float32(p.bone)

    def _rib_table(self, side, strength):
        """Bone by level, cm: hollow tubes, so brighter at both borders."""
        p = self.patient
        table = np.zeros_like(self.heights)
        stretch = self.lung_height / 23
        for rib in range(12):
            centre = 0.3 + p.rib_shift + rib * p.rib_spacing * stretch * (0.93 + 0.016 * rib)
            half = 0.52 * p.rib_widths[side, rib] + 0.012 * rib
            near = slice(*np.searchsorted(self.heights, (centre - half, centre + half)))
            q = np.square((self.heights[near] - centre) / half)
            table[near] += strength * (0.46 + 0.28 * q * q) * np.clip((1.25 - np.sqrt(q)) * 4, 0, 1)
        return table

    def _spine(self):
        x = np.abs(self.x - self.bend - np.float32(0.3 * self.exposure.turn))
        half = self.along(1.5 + 0.022 * np.clip(self.heights + 5, 0, 40))
        body = np.sqrt(np.maximum(1 - (x / half) ** 4, 0))
        period = 2.15 + 0.025 * np.clip(self.heights, 0, 40)
        disc = 1 - 0.35 * np.exp(-(((self.heights / period) % 1.0 - 0.5) ** 2) / 0.012)
        process = np.exp(-((x / 0.35) ** 2)) * self.along(
            0.5 * np.exp(-(((self.heights / period) % 1.0 - 0.2) ** 2) / 0.03)
        )
        return body * self.along(0.75 * disc) + 0.4 * process

    def _clavicles(self):
        level, slope, bow, half = self.patient.clavicle
        out = np.abs(self.x) / 14.0
        centre = level - slope * 14 * out - bow * 1.5 * np.sin(3.6 * out)
        q = np.abs(self.y - centre) / np.float32(half)
        tube = np.where(q < 1, 0.75 + 0.6 * q**4, 0) * np.clip((1.2 - q) * 4, 0, 1)
        return (
            tube
            * np.clip((np.abs(self.x) - 1.6) * 2, 0, 1)
            * np.clip((self.patient.half_width + 3 - np.abs(self.x)) * 2, 0, 1)
        )

    def _shoulder(self, bone, side):
        """Head and shaft of the humerus, and the scapula as a plate with a dense border."""
        p = self.patient
        joint, elbow = self._upper_arm(side)
        window, head = self.ellipse(joint[0], joint[1], 2.3, 2.5)
        if window:
            bone[window] += np.sqrt(head)
        window, shaft = self.from_segment(joint, elbow, 1.2)
        if window:
            bone[window] += np.where(shaft < 1.1, 0.5 + 0.7 * (shaft / 1.1) ** 4, 0)
        blade_top, blade_end = (
            (joint[0] - side * 2.2, joint[1] + 0.6),
            (side * (p.half_width - 0.4), 12.5 + 0.4 * p.arms),
        )
        window, blade = self.from_segment(blade_top, blade_end, 2.8)
        if window:
            half = 2.6 - 2.0 * np.clip((self.y[window] - float(joint[1])) / 12, 0, 1)
            bone[window] += np.where(blade < half, 0.16 + 0.3 * np.square(np.square(blade / half)), 0)
        window, crest = self.from_segment(joint - (side * 0.3, 2.2), joint - (side * 7.0, -0.4), 0.6)
        if window:
            bone[window] += np.where(crest < 0.5, 0.35, 0)

    # ---- fine structure, drawn as lines -----------------------------------------------------------------------------
    def canvas(self):
        """An empty picture at twice the resolution, and a pen for it."""
        picture = Image.new("L", (2 * self.size, 2 * self.size))
        return picture, ImageDraw.Draw(picture)

    def reduced(self, picture):
        """What was drawn, on the grid: (size, size), 0 to 1."""
        return np.asarray(picture.reduce(2), dtype=np.float32) / np.float32(255)

    def in_lung(self, side, across, down):
        """Points in cm of lung coordinates: across 0 midline .. 1 wall, down 0 apex .. 1 dome."""
        y = np.asarray(down) * (self.lung_height - self.patient.domes[side] - self.exposure.domes[side])
        half = np.interp(y, self.heights, self.cage_table)
        sign = -1 if side == 0 else 1
        return sign * np.asarray(across) * half + self.midline * (1 - np.asarray(across)), y

    def _vessels(self, rng):
        p, e = self.patient, self.exposure
        picture, pen = self.canvas()
        scale = 2 * self.px_per_cm
        for side in (0, 1):
            tree = p.vessels[side]
            keep = tree[:, 4] > np.quantile(tree[:, 4], e.pruning)
            tree = tree[keep][::-1]
            x0, y0 = self.pixels(*self.in_lung(side, tree[:, 0], tree[:, 1]))
            x1, y1 = self.pixels(*self.in_lung(side, tree[:, 2], tree[:, 3]))
            width = tree[:, 4] * e.engorged * scale
            lines = np.column_stack([x0, y0, x1, y1]) * 2
            grey = np.clip(tree[:, 4] * e.engorged * 300, 20, 255).astype(int)
            for line, w, g in zip(lines.tolist(), width.tolist(), grey.tolist(), strict=True):
                pen.line(line, fill=g, width=max(1, round(w)))
        return self.reduced(picture)
