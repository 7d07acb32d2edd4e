"""A named subset of a data set, gathered in a folder of its own, so that others can reproduce the measurements."""

import os
import shutil
from pathlib import Path

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import written_whole
from cxrlib.core.progress import bar
from cxrlib.data.metadata import NIH_NAME, find_csv
from cxrlib.data.sources import find_images

_TABLES = ("BBox_List_2017.csv", "train_val_list.txt", "test_list.txt")


def read_names(path: str | Path) -> list[str]:
    """Image names from a text file, one per line. Raises InputError for a line that is not a name like NIH's."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected a text file of image names, one per line"
        ) from None
    names = [line.strip() for line in lines if line.strip()]
    if wrong := [name for name in names if not NIH_NAME.fullmatch(name)]:
        raise InputError(
            f"{path} contains {some(map(repr, wrong), 3)}; expected names such as 00000013_005.png, one per line"
        )
    return names


def gather(img_root: str | Path, names: list[str], out: str | Path) -> Path:
    """Make `out` a data set of the named images of `img_root`: images/, its CSV, the official lists and the boxes.

    Files are hard links where possible, else copies; rows are unchanged. Raises InputError where an image is missing,
    since a part of a subset would be another subset.
    """
    images, csv_path, out = find_images(img_root), find_csv(img_root), Path(out)
    if missing := [name for name in names if name not in images]:
        raise InputError(
            f"{len(missing):,} of {len(names):,} images are not in {img_root} ({some(missing)}); "
            "the subset needs the whole download: cxr download data"
        )
    (out / "images").mkdir(parents=True, exist_ok=True)
    for name in bar(names, desc="gather", unit=" images"):
        if not (out / "images" / name).exists():
            with written_whole(out / "images" / name) as temporary:
                _link(images[name], temporary)
    wanted = set(names)
    for table in (csv_path, *(csv_path.parent / table for table in _TABLES)):
        if table.is_file():
            _rows(table, wanted, out / table.name)
    return out


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _rows(table: Path, names: set[str], target: Path) -> None:
    """Copy the header, if there is one, and the rows whose first column is one of the names."""
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    kept = [line for line in lines if line.split(",")[0].strip('"') in names]
    header = lines[:1] if table.suffix == ".csv" else []
    with written_whole(target) as temporary:
        temporary.write_text("\n".join(header + kept) + "\n", encoding="utf-8")
