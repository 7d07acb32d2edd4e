"""Where the radiographs are: all published layouts under one root, and the download through kagglehub."""

import filecmp
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.images import is_image

# NIH's archives and Kaggle's full set; Kaggle's sample, which repeats its folder once more; one flat folder
LAYOUTS = ("images_*/images", "images_*", "images", "sample/images", "sample/sample/images", "sample", ".")
PACKED = ("", ".gz", ".zip")  # how a table or list may end, besides


def find_images(img_root: str | Path) -> dict[str, Path]:
    """Every image in one of the `LAYOUTS`, {name: path}, sorted; InputError for none, or two different of one name."""
    root = image_root(img_root)
    images = {}
    for entry in scan_images(root):
        first = images.setdefault(entry.name, Path(entry.path))
        if first != Path(entry.path) and not same_file(first, Path(entry.path)):
            raise InputError(f"{first} and {entry.path} have the same name but differ; keep one of them")
    if not images:
        inside = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
        raise InputError(f"no PNG, JPEG or DICOM found under {root}: searched {', '.join(LAYOUTS)}; the folder "
                         f"contains {some(inside, 8) or 'nothing'}; point img_root at what holds them")  # fmt: skip
    return dict(sorted(images.items()))


def same_file(one: Path, other: Path) -> bool:
    """Whether two files of one name hold the same image: by their size and, where this says little, their content."""
    packed = one.suffix.lower() in (".png", ".jpg", ".jpeg")
    return one.stat().st_size == other.stat().st_size and (packed or filecmp.cmp(one, other, shallow=False))


def image_root(img_root: str | Path) -> Path:
    """The folder as a path. Raises InputError where there is none."""
    if not Path(img_root).is_dir():
        raise InputError(f"{img_root} is not a folder; expected the root of the radiographs")
    return Path(img_root)


def find_beside(name: str, *folders: str | Path) -> Path | None:
    """The file `name`, or packed as .gz or .zip, in the first folder that holds it; None where none does."""
    paths = (Path(folder, name + packed) for folder in folders for packed in PACKED)
    return next((path for path in paths if path.is_file()), None)


def find_table(folder: Path, *patterns: str) -> Path:
    """The file of the first pattern that has one, as it is or packed; InputError where there is none, or several."""
    for pattern in patterns:
        matches = sorted(path for packed in PACKED for path in folder.glob(pattern + packed))
        if len(matches) > 1:
            raise InputError(f"{folder} has several tables, {some(matches)}; choose one with csv_path")
        if matches:
            return matches[0]
    raise InputError(f"{folder} has none of {some(patterns, 7)}; name the table with csv_path")


def scan_images(root: Path) -> Iterator[os.DirEntry]:
    """Every image in a known layout of a root, each file once, in no order; two files may have the same name."""
    folders = [folder for layout in LAYOUTS if layout != "." for folder in sorted(root.glob(layout)) if folder.is_dir()]
    for folder in dict.fromkeys([*folders, root]):
        try:
            with os.scandir(folder) as entries:
                yield from (entry for entry in entries if entry.is_file() and is_image(entry.path))
        except OSError as error:
            raise InputError(f"{folder} cannot be read ({error.strerror}); expected a folder of images") from None


def keep_found(entries: pd.DataFrame, images: dict[str, Path]) -> tuple[pd.DataFrame, str]:
    """The entries whose image was found, and what was left out. Raises InputError where no entry has an image."""
    found = entries["image"].isin(images)
    if not found.any():
        raise InputError(f"none of the {len(entries):,} images of the CSV ({some(entries['image'], 3)}) was found "
                         f"({some(images, 3)} were); csv_path and img_root should belong together")  # fmt: skip
    kept, lost = entries[found].reset_index(drop=True), entries.loc[~found, "image"]
    extra = sorted(set(images) - set(entries["image"]))
    parts = [f"{len(kept):,} radiographs of {kept['patient'].nunique():,} patients"]
    parts += [f"{len(lost):,} CSV rows without an image left out ({some(lost, 3)})"] * (len(lost) > 0)
    parts += [f"{len(extra):,} images without a CSV row left out ({some(extra, 3)})"] * (len(extra) > 0)
    return kept, "; ".join(parts)


def download(dataset: str = "sample") -> Path:
    """Download a data set from Kaggle, unless kagglehub's cache has its newest version, and return its folder.

    dataset: "data", all 112,120 images, 42 GB (about twice as much while it unpacks), or "sample", 5,606 images, 4 GB.
    Raises InputError where Kaggle cannot be reached, or has no such data set.
    """
    import kagglehub

    handle = f"nih-chest-xrays/{dataset}"
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # any error of requests, urllib3 or Kaggle's API
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"Kaggle's data set {handle} cannot be downloaded ({reason}); check the network, or download "
                         "it by hand and give its folder as img_root") from None  # fmt: skip


def describe_layout(images: dict[str, Path], img_root: str | Path) -> dict[str, int]:
    """The number of images in each folder below `img_root`: {"images_001/images": 211, ...}."""
    folders = Counter(path.parent for path in images.values())
    return {os.path.relpath(folder, img_root): count for folder, count in sorted(folders.items())}


def content_digest(files: Iterable[Path], listed: dict[str, Path] | None = None) -> str:
    """16 hex digits of files (content, in order) and others (name, size, time). Raises InputError if one is missing."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        found = ((name, os.stat(path)) for name, path in (listed or {}).items())
        for name, size, changed in sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found):
            digest.update(os.fsencode(name) + f"\0{size}\0{changed}\n".encode())  # a name need not be UTF-8
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise InputError(f"{error.filename} {what}; expected a file of the data set") from None
    return digest.hexdigest()
