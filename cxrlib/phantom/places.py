"""Where things are on a phantom, drawn again from the same random numbers: lungs, heart border, devices, letters."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from cxrlib.core.errors import InputError
from cxrlib.phantom.generate import VERSION, render_visits
from cxrlib.phantom.patients import plan_visits

PLACES = ("lungs", "heart border", "devices", "letters", "elsewhere")


def places(root: str | Path, images: Iterable[str], size: int) -> dict[str, dict[str, np.ndarray]]:
    """Masks (size, size) bool of each image: {image: {place: mask}}, PLACES in that order; no pixel is in two.

    root: what `make_phantoms` drew. A pixel goes to letters before devices, heart border (a fortieth of the image to
    either side of it) and lungs; elsewhere is what remains, the heart's inside among it.
    Raises InputError where root holds no phantoms of this version, or none of one of these names.
    """
    try:
        made = json.loads((Path(root) / "phantom.json").read_text(encoding="utf-8"))
        asked = [made[name] for name in ("n_patients", "seed", "prevalence", "label_noise")]
        drawn_at = made["size"]
    except (OSError, ValueError, KeyError):
        made = {}
    if made.get("version") != VERSION:
        raise InputError(f"{root} holds no phantoms of version {VERSION}, whose places are known; draw some anew")
    visits, images = plan_visits(*asked), list(images)
    unknown = sorted(set(images) - set(visits["image"]))
    if unknown:
        raise InputError(f"{root} holds no phantom {unknown[0]}; expected names from its Data_Entry_2017.csv")
    drawn = {}
    wanted = visits[visits["image"].isin(images)]
    for _, group in wanted.groupby("patient"):
        for _ in render_visits(group.to_dict("records"), drawn_at, drawn):
            pass
    return {image: _apart({name: _resized(mask, size) for name, mask in drawn[image].items()}) for image in images}


def _resized(mask: np.ndarray, size: int) -> np.ndarray:
    """A pixel belongs to what covers a third of it."""
    return np.asarray(Image.fromarray(255 * mask.astype(np.uint8)).resize((size, size), Image.Resampling.BOX)) > 85


def _apart(masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    heart = masks["heart"]
    wide = max(1, len(heart) // 40)
    border = binary_dilation(heart, iterations=wide) & ~binary_erosion(heart, iterations=wide)
    order = {"letters": binary_dilation(masks["letters"]), "devices": masks["devices"], "heart border": border,
             "lungs": masks["lungs"]}  # fmt: skip
    taken, apart = np.zeros(heart.shape, dtype=bool), {}
    for name, mask in order.items():
        apart[name] = mask & ~taken
        taken |= mask
    apart["elsewhere"] = ~taken
    return {name: apart[name] for name in PLACES}


def energy_by_place(heat: np.ndarray, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The share of a map's sum in each place, and how dense it is there: share / (share of the image), 1 is flat.

    Returns {place: share, "place density": density}; NaN for an empty map and for the density of an empty place.
    """
    total = heat.sum()
    shares = {name: float((heat * mask).sum() / total) if total else np.nan for name, mask in masks.items()}
    density = {f"{name} density": shares[name] / mask.mean() if mask.any() else np.nan for name, mask in masks.items()}
    return shares | density
