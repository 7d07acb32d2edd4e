"""The healthy chest of one patient in one exposure, as maps of path lengths.

Lengths are centimetres in the patient: x to the image's right (the patient's left) from the midline, y downwards from
the apices of the lungs. Each map is (size, size) float32 and holds the length of each ray inside a body; `film` turns
their sum into a radiograph. Side 0 is the patient's right, 1 the left.
"""

import numpy as np

from cxrlib.phantom.grid import OUTWARDS, Grid, Pen

_TOP, _BOTTOM, _STEP = -20.0, 60.0, 0.02  # range and step of the tables over y, cm


class Scene(Grid):
    """One exposure of one patient.

    The maps `body`, `lungs` (right, left), `heart`, `bone` and `vessels` are drawn at once. The painters of `signs`
    change the maps `fill`, `soft` and `air`, which begin at zero.
    """

    def __init__(self, patient, exposure, size):
        super().__init__(exposure, size)
        self.patient = patient
        self.lung_height = patient.height * exposure.breath + exposure.inflate
        self.midline = exposure.turn + exposure.shift
        self.heights = np.arange(_TOP, _BOTTOM, _STEP, dtype=np.float32)
        self._row = ((self.y - _TOP) * np.float32(1 / _STEP)).astype(np.int32)
        bend = patient.scoliosis[0] * np.sin(self.heights / 12 + patient.scoliosis[1])
        self.bend = self.along(bend - bend[int((8 - _TOP) / _STEP)])
        self._cage()
        self._trunk()
        self._lungs()
        self._mediastinum()
        self._skeleton()
        self._vessels()
        self.fill = np.zeros_like(self.x)  # share of the lung's air replaced by fluid or tissue
        self.soft = np.zeros_like(self.x)  # further soft tissue, cm (negative: air in its place)
        self.air = np.zeros_like(self.x)  # share of lung without vessels and tissue

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

    def _cage(self):
        """Half width of the rib cage over height: pointed at the apex, widest above the domes."""
        p, e = self.patient, self.exposure
        top = 0.9 * self.lung_height
        rise = np.clip(self.heights / top, 0, 1)
        width = p.half_width * (1 + 0.02 * e.inflate) * np.sqrt(1 - (1 - rise) ** p.apex)
        self.cage_table = width * (1 + 0.004 * np.clip(self.heights - top, 0, 12))
        self.cage = self.along(np.maximum(self.cage_table, 0.01))
        self.out = [-self.x, self.x]  # distance from the midline, outwards, right and left

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
        body = self.along(depth) * np.sqrt(np.maximum(1 - ratio * ratio, 0))
        radius = 4.2 + 0.5 * p.fat
        self.upper_arms = []  # shoulder joint and elbow
        for sign in OUTWARDS:
            joint = np.array([sign * (wall + 0.6), 3.0 - 0.4 * p.shoulder])
            elbow = joint + np.array([sign * (4.0 + 2.0 * p.arms), 17.0])
            self.upper_arms.append((joint, elbow))
            window, away = self.segment(joint, elbow, radius)
            arm = 2.0 * np.sqrt(np.maximum(radius * radius - away * away, 0))
            body[window] = np.maximum(body[window], arm)
        if p.breast:
            bx, by, r = p.breast_place
            for sign in OUTWARDS:
                window, inside = self.ellipse(sign * bx, by, r, r * 0.95)
                low = np.clip((self.y[window] - by) / r * 0.6 + 0.65, 0.0, 1)
                body[window] += p.breast * 1.7 * low * np.sqrt(inside)
        self.body = body

    def dome(self, side, out):
        """The diaphragm's y (cm) at distances `out` (cm) from the midline."""
        p, e = self.patient, self.exposure
        lateral = out / np.float32(p.half_width) - np.float32(0.46)
        sag = np.where(lateral > 0, np.float32(17.0), np.float32(7.0)) * lateral * lateral
        return self.lung_height - p.domes[side] - e.domes[side] + np.float32(p.dome_curve * e.flatten) * sag

    def _lungs(self):
        """Both lungs, and the height of each pixel above the domes, cm."""
        depth = self.along(0.74 * self.patient.depth * np.clip((self.heights + 0.4) / 10, 0, 1) ** 0.6)
        medial = self.along(1.4 + 0.5 * np.clip(1 - self.heights / 10, 0, 1))
        self.lungs, self.above = [], []
        for side, out in enumerate(self.out):
            ratio = out / self.cage
            lung = depth * np.sqrt(np.maximum(1 - ratio * ratio, 0))
            lung *= np.clip((out - medial) * np.float32(0.8), 0, 1)
            above = self.dome(side, out) - self.y
            sharp = np.clip(above * np.float32(3.0) + np.float32(0.5), 0, 1)
            lung *= sharp * (0.6 + 0.4 * np.sqrt(np.clip(above * np.float32(0.2), 0, 1)))
            behind = depth * np.float32(0.10) * np.clip(1 + above * np.float32(0.25), 0, 1) * (1 - sharp)
            lung += behind * np.clip((0.95 - ratio) * 8, 0, 1)  # the part behind the dome
            lung *= out > 0
            self.lungs.append(lung)
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
        for cx, cy, a, c, tilt, thick in bodies:
            window, inside = self.ellipse(cx, cy, a, c, tilt)
            heart[window] += np.square(thick * thick * inside)
        np.sqrt(heart, out=heart)  # a smooth union: the fourth root of the sum of fourth powers
        np.sqrt(heart, out=heart)
        for side, sign in enumerate(OUTWARDS):  # hila
            hilum = (0.47 - 0.04 * side) * height
            window, inside = self.ellipse(turn + sign * 3.4, hilum, 1.5 * e.engorged, 2.5, sign * 0.35)
            heart[window] += 3.0 * e.engorged * inside
        self.heart = heart

    def _skeleton(self):
        """Ribs, spine, clavicles and shoulders."""
        p = self.patient
        bone = np.zeros_like(self.x)
        inside = np.clip((self.cage + np.float32(0.7) - np.abs(self.x)) * 2, 0, 1) * np.clip(self.y * 0.5 + 1, 0, 1)
        inside *= np.clip(1.2 - (self.y - self.lung_height) * 0.14, 0.12, 1)
        out = np.abs(self.x - self.bend)
        back = self.y - np.float32(p.rib_drop) * np.square(np.maximum(out - 2.5, 0))
        far = np.maximum(np.float32(p.half_width) - out, 0)
        ahead = self.y - np.float32(0.42) * far - np.float32(0.028) * far * far - np.float32(3.0)
        cartilage = np.clip((out - np.float32(0.33 * p.half_width)) * np.float32(0.5), 0, 1)
        right = self.x < self.bend
        for levels, strength, weight in ((back, 1.0, 1.0), (ahead, 0.55, cartilage)):
            index = ((np.clip(levels, -12, 50) - np.float32(_TOP)) * np.float32(1 / _STEP)).astype(np.int32)
            tables = [self._rib_table(side, strength)[index] for side in (0, 1)]
            bone += np.where(right, *tables) * weight * inside
        bone += self._spine()
        bone += self._clavicles()
        for sign, arm in zip(OUTWARDS, self.upper_arms, strict=True):
            self._shoulder(bone, sign, *arm)
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
        level = self.heights / period % 1.0  # within one vertebra
        disc = 1 - 0.35 * np.exp(-((level - 0.5) ** 2) / 0.012)
        process = self.along(0.5 * np.exp(-((level - 0.2) ** 2) / 0.03)) * np.exp(-((x / 0.35) ** 2))
        return body * self.along(0.75 * disc) + 0.4 * process

    def _clavicles(self):
        level, slope, bow, half = self.patient.clavicle
        out = np.abs(self.x) / 14.0
        centre = level - slope * 14 * out - bow * 1.5 * np.sin(3.6 * out)
        q = np.abs(self.y - centre) / np.float32(half)
        tube = np.where(q < 1, 0.75 + 0.6 * q**4, 0) * np.clip((1.2 - q) * 4, 0, 1)
        ends = self.patient.half_width + 3
        return tube * np.clip((np.abs(self.x) - 1.6) * 2, 0, 1) * np.clip((ends - np.abs(self.x)) * 2, 0, 1)

    def _shoulder(self, bone, sign, joint, elbow):
        """Head and shaft of the humerus, and the scapula as a plate with a dense border."""
        window, head = self.ellipse(joint[0], joint[1], 2.3, 2.5)
        bone[window] += np.sqrt(head)
        window, shaft = self.segment(joint, elbow, 1.2)
        bone[window] += np.where(shaft < 1.1, 0.5 + 0.7 * (shaft / 1.1) ** 4, 0)
        tip = (sign * (self.patient.half_width - 0.4), 12.5 + 0.4 * self.patient.arms)
        window, blade = self.segment(joint - (sign * 2.2, -0.6), tip, 2.8)
        half = 2.6 - 2.0 * np.clip((self.y[window] - float(joint[1])) / 12, 0, 1)
        bone[window] += np.where(blade < half, 0.16 + 0.3 * np.square(np.square(blade / half)), 0)
        window, crest = self.segment(joint - (sign * 0.3, 2.2), joint - (sign * 7.0, -0.4), 0.6)
        bone[window] += np.where(crest < 0.5, 0.35, 0)

    def _vessels(self):
        pen = Pen(self)
        for side, tree in enumerate(self.patient.vessels):
            kept = tree[tree[:, 4] > np.quantile(tree[:, 4], self.exposure.pruning)][::-1]
            widths = kept[:, 4] * self.exposure.engorged
            pen.lines(*self.in_lung(side, kept[:, [0, 2]], kept[:, [1, 3]]), widths, np.clip(widths * 300, 20, 255))
        self.vessels = pen.map()
