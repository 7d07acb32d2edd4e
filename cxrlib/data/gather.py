"""A named subset of a data set, gathered in a folder of its own, so that others can reproduce the measurements."""

import filecmp
import os
import shutil
from pathlib import Path

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import write_csv, write_text, written_whole
from cxrlib.core.progress import bar
from cxrlib.data.metadata import BOXES, find_csv, read_boxes, read_csv, read_entries, read_lists
from cxrlib.data.sources import find_beside, find_images


def gather(img_root: str | Path, names: list[str], out: str | Path, csv_path: str | Path = "") -> Path:
    """Make `out` a data set of the named images: images/ (hard links or copies), the CSV, official lists and boxes.

    Raises InputError where an image or its row is missing, since a part of a subset would be another subset.
    """
    images, csv_path, out = find_images(img_root), Path(csv_path or find_csv(img_root)), Path(out)
    if out.resolve() == csv_path.resolve().parent:
        raise InputError(f"{csv_path} lies in {out}, where the subset's would replace it; choose another folder")
    if missing := [name for name in names if name not in images]:
        raise InputError(f"{len(missing):,} of {len(names):,} images are not in {img_root} ({some(missing)}); expected "
                         "names such as 00000013_005.png, and the whole download: cxr download data")  # fmt: skip
    named = read_entries(csv_path)["image"]
    if missing := sorted(set(names) - set(named)):
        raise InputError(f"{csv_path} has no row for {len(missing):,} of the images ({some(missing)}); expected all")
    tables = {csv_path.name.removesuffix(".gz").removesuffix(".zip"): read_csv(csv_path)[named.isin(names)]}
    if boxes := find_beside(BOXES, img_root, csv_path.parent):
        tables[BOXES] = read_csv(boxes)[read_boxes(boxes)["image"].isin(names)]
    lists = read_lists(img_root, csv_path.parent) or {}

    (out / "images").mkdir(parents=True, exist_ok=True)
    for name in bar(names, desc="gather", unit=" images"):
        target = out / "images" / name
        if not (target.exists() and filecmp.cmp(target, images[name])):
            try:
                os.link(images[name].resolve(), target)
            except OSError:  # another disk, one without links, or a file of before
                with written_whole(target) as temporary:
                    shutil.copyfile(images[name], temporary)
    for name, table in tables.items():
        write_csv(out / name, table, index=False)
    for part, listed in lists.items():
        write_text(out / f"{part}_list.txt", "".join(f"{name}\n" for name in sorted(listed.intersection(names))))
    return out
