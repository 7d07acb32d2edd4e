"""A tiny data set in the layout of the NIH download, drawn for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from cxrlib.data.findings import FINDINGS

PATIENTS, SIDE = 32, 64
# Far above NIH's 30,805 patients, so that no tiny image is mistaken for a published one.
FIRST_PATIENT = 90001
RGBA, SIXTEEN_BIT = "00090001_000.png", "00090002_000.png"
BOXED = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax")


def make_tiny_nih(root: Path) -> Path:
    """Draw the tiny data set under `root`, as NIH ships it, and return `root`.

    A finding is a bright square in its own place, so that a model can learn it. One PNG is RGBA, one has 16 bits, both
    as grey as the others. Three patients of ten are in the official test part; every finding is on both sides.
    """
    rng = np.random.default_rng(0)
    entries, boxes, parts = [], [], {"train_val": [], "test": []}
    decks = {part: [] for part in parts}

    def deal(part: str) -> set[int]:  # from a shuffled deck of all fourteen, so that each comes equally often
        if len(decks[part]) < 3:
            decks[part] += rng.permutation(14).tolist()
        return {decks[part].pop(0) for _ in range(3)}

    for order in range(PATIENTS):
        part = "test" if order % 10 in (1, 4, 8) else "train_val"
        for visit in range((1, 2, 4, 1, 2, 2)[order % 6]):
            name = f"{FIRST_PATIENT + order:08d}_{visit:03d}.png"
            number = len(entries)
            found = [] if number % 5 == 4 else sorted(deal(part))
            folder = root / f"images_00{1 + order % 2}" / "images"
            folder.mkdir(parents=True, exist_ok=True)
            _save(folder / name, _draw(found, rng))
            labels = "|".join(FINDINGS[index] for index in found) or "No Finding"
            age, sex, view = 20 + order % 60, "MF"[order % 2], ("PA", "AP")[number % 2]
            entries.append(f"{name},{labels},{visit},{FIRST_PATIENT + order},{age},{sex},{view},2500,2048,0.168,0.168,")
            parts[part].append(name)
            if part == "test":
                boxes += [_box(name, index) for index in found if FINDINGS[index] in BOXED]
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    )
    (root / "Data_Entry_2017.csv").write_text("\n".join([header, *entries]) + "\n")
    (root / "BBox_List_2017.csv").write_text("\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *boxes]) + "\n")
    for part, names in parts.items():
        (root / f"{part}_list.txt").write_text("\n".join(names) + "\n")
    return root


def _place(index: int) -> tuple[int, int, int]:
    """Column, row and side in pixels of the square that stands for a finding: a grid of four by four."""
    return 4 + 15 * (index % 4), 4 + 15 * (index // 4), 11


def _draw(found: list[int], rng: np.random.Generator) -> np.ndarray:
    pixels = rng.normal(90, 12, (SIDE, SIDE)) + np.linspace(-20, 20, SIDE)
    for index in found:
        x, y, side = _place(index)
        pixels[y : y + side, x : x + side] += 110
    return pixels.clip(0, 255).astype(np.uint8)


def _box(name: str, index: int) -> str:
    x, y, side = (value * 1024 / SIDE for value in _place(index))
    label = "Infiltrate" if FINDINGS[index] == "Infiltration" else FINDINGS[index]
    return f"{name},{label},{x},{y},{side},{side},,,"


def _save(path: Path, grey: np.ndarray) -> None:
    image = Image.fromarray(grey)
    if path.name == RGBA:
        image = image.convert("RGBA")
    elif path.name == SIXTEEN_BIT:
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    image.save(path)
