"""Regions of a phantom, drawn again from the same random numbers: lungs, heart border, devices and letters."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from cxrlib.phantom.generate import read_manifest, render_visits
from cxrlib.phantom.patients import plan_visits

PLACES = ("lungs", "heart border", "devices", "letters", "elsewhere")


def places(root: str | Path, images: list[str], size: int) -> dict[str, dict[str, np.ndarray]]:
    """The regions of images in a folder of `make_phantoms`: {image: {place: mask}}, masks (size, size) bool.

    A pixel is in one place: letters before devices, heart border (a fortieth of the image to either side of it) and
    lungs; elsewhere is the rest, with the inside of the heart. Raises InputError if `root` holds no phantoms.
    """
    config, _ = read_manifest(root)
    visits, wide, found = plan_visits(config), max(1, size // 40), {}
    patients = visits[visits["image"].isin(images)].groupby("patient")
    for visit, _, _, masks in (drawn for _, own in patients for drawn in render_visits(own.to_dict("records"), config)):
        films = [Image.fromarray(255 * mask.astype(np.uint8)) for mask in masks.values()]
        lungs, heart, devices, letters = (np.asarray(film.resize((size, size), Image.BOX)) > 85 for film in films)
        border = binary_dilation(heart, iterations=wide) & ~binary_erosion(heart, iterations=wide)
        place = np.select([binary_dilation(letters), devices, border, lungs], (3, 2, 1, 0), 4)  # the first that is true
        found[visit["image"]] = {name: place == number for number, name in enumerate(PLACES)}
    return {image: found[image] for image in images}


def energy_by_place(heat: np.ndarray, masks: dict[str, np.ndarray]) -> dict[str, float]:
    """By place, as "place density", its share of a heat map's sum over that of the area; NaN where undefined."""
    total = heat.sum()
    shares = {name: float((heat * mask).sum() / total) if total else np.nan for name, mask in masks.items()}
    return {f"{name} density": shares[name] / mask.mean() if mask.any() else np.nan for name, mask in masks.items()}
