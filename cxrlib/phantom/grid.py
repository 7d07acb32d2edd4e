"""The film as a grid: conversion between centimetres and pixels, shapes on the grid, and a pen for fine lines."""

import math

import numpy as np
from PIL import Image, ImageDraw

OUTWARDS = (-1, 1)  # sign of x from the midline to the wall, on the patient's right (side 0) and left (side 1)


def enlarged(coarse, size):
    """A small float32 map, interpolated smoothly to (size, size)."""
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.BICUBIC))


class Grid:
    """The pixels of one exposure, with their coordinates `x` and `y` in cm: (size, size) float32.

    A window is a pair of slices (rows, columns) around a shape; it is empty where the shape lies outside the film.
    """

    def __init__(self, exposure, size):
        self.exposure, self.size = exposure, size
        width, height = exposure.field
        step = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
        cos, sin = np.cos(exposure.angle), np.sin(exposure.angle)
        to_cm = np.array([[cos * width, -sin * height], [sin * width, cos * height]])
        self._to_px = np.linalg.inv(to_cm)
        (a, b), (c, d) = to_cm.astype(np.float32)
        self.x = a * step[None, :] + b * step[:, None] + np.float32(exposure.origin[0])
        self.y = c * step[None, :] + d * step[:, None] + np.float32(exposure.origin[1])
        self.px_per_cm = size / width

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


class Pen:
    """Draws on a canvas of twice the grid's resolution. Coordinates and widths are in cm, greys 0 to 255."""

    def __init__(self, grid):
        self.grid, self.scale = grid, 2 * grid.px_per_cm
        self._image = Image.new("L", (2 * grid.size, 2 * grid.size))
        self._draw = ImageDraw.Draw(self._image)

    def lines(self, xs, ys, widths, greys):
        """Draws n polylines of k points: `xs` and `ys` are (n, k), `widths` and `greys` (n,) or one number for all."""
        points = 2 * np.stack(self.grid.pixels(xs, ys), axis=-1).reshape(len(xs), -1)
        widths = np.broadcast_to(widths, len(xs)) * self.scale
        for line, width, grey in zip(points.tolist(), widths.tolist(), np.broadcast_to(greys, len(xs)), strict=True):
            self._draw.line(line, fill=int(grey), width=max(1, round(width)))

    def curve(self, points, width, grey):
        """Draws a smooth curve near the points (x, y): a polynomial of at most third degree."""
        t, fine = np.linspace(0, 1, len(points)), np.linspace(0, 1, 24)
        degree = min(3, len(points) - 1)
        xs, ys = ([np.polyval(np.polyfit(t, values, degree), fine)] for values in zip(*points, strict=True))
        self.lines(xs, ys, width, grey)

    def disc(self, x, y, radius, grey, ring=0.0):
        """Draws a filled disc, or a ring of the width `ring`."""
        col, row = self.grid.pixels(x, y)
        reach = radius * self.scale
        box = [2 * col - reach, 2 * row - reach, 2 * col + reach, 2 * row + reach]
        fill, outline = (None, grey) if ring else (grey, None)
        self._draw.ellipse(box, fill, outline, max(1, round(ring * self.scale)))

    def map(self):
        """The drawing on the grid: (size, size) float32, 0 to 1."""
        return np.asarray(self._image.reduce(2), dtype=np.float32) / np.float32(255)
