"""Where the radiographs are: every layout met in the wild under one root, and the download through kagglehub."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cxrlib.core.errors import InputError, some

# NIH's archives and Kaggle's full set; Kaggle's sample, which nests itself once more; one flat folder
LAYOUTS = (
    "images_*/images",
    "images_*",
    "images",
    "sample/images",
    "sample/sample/images",
    "sample",
    ".",
)
DATASETS = {"data": "nih-chest-xrays/data", "sample": "nih-chest-xrays/sample"}


def find_images(img_root: str | Path) -> dict[str, Path]:
    """Every PNG under `img_root` in a known layout: {"00000013_005.png": Path(...)}, sorted by name.

    The layouts are `LAYOUTS`, looked for in `img_root` itself and, where it is a folder of kagglehub's cache, in its
    newest version. The same name in two places is one image where the files have the same size.
    Raises InputError where there is no such folder or no image (saying what was looked for and what was there), and
    where two different files bear one name.
    """
    root = Path(img_root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; expected the root of the radiographs (img_root)")
    root = newest_version(root)
    images: dict[str, Path] = {}
    for entry in scan_images(root):
        first = images.setdefault(entry.name, Path(entry.path))
        if first != Path(entry.path) and first.stat().st_size != entry.stat().st_size:
            raise InputError(f"{first} and {entry.path} bear one name but differ; keep one of them")
    if not images:
        inside = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
        raise InputError(
            f"no PNG found under {root}: looked for {', '.join(f'{layout}/*.png' for layout in LAYOUTS)}; "
            f"there was {some(inside, 8) or 'nothing'}; point img_root at the folder that holds them"
        )
    return dict(sorted(images.items()))


def scan_images(root: Path) -> Iterator[os.DirEntry]:
    """Every PNG in a known layout of a root, each file once, as the folders give them; a name may come twice."""
    seen = set()
    for layout in LAYOUTS:
        for folder in sorted(root.glob(layout)) if layout != "." else [root]:
            if folder in seen or not folder.is_dir():
                continue
            seen.add(folder)
            with os.scandir(folder) as entries:
                yield from (entry for entry in entries if entry.name.lower().endswith(".png") and entry.is_file())


def keep_found(entries: pd.DataFrame, images: dict[str, Path]) -> tuple[pd.DataFrame, str]:
    """The entries whose image is there, and a sentence that counts what was left out on either side.

    Raises InputError where not one entry has an image.
    """
    found = entries["image"].isin(images)
    if not found.any():
        raise InputError(
            f"none of the {len(entries):,} images of the CSV ({some(entries['image'], 3)}) is among the "
            f"{len(images):,} found under img_root ({some(images, 3)}); csv_path and img_root should belong together"
        )
    parts = [f"{found.sum():,} radiographs of {entries.loc[found, 'patient'].nunique():,} patients"]
    if not found.all():
        parts.append(f"{(~found).sum():,} CSV rows without an image left out ({some(entries.loc[~found, 'image'], 3)})")
    extra = set(images) - set(entries["image"])
    if extra:
        parts.append(f"{len(extra):,} images without a CSV row left out ({some(sorted(extra), 3)})")
    return entries[found].reset_index(drop=True), "; ".join(parts)


def download(dataset: str = "sample") -> Path:
    """Download a data set from Kaggle (kagglehub, which resumes and caches), and return its folder.

    dataset: "data", all 112,120 images, 42 GB (of which kagglehub needs about twice while it unpacks), or "sample",
    5,606 images, 4 GB. What lies complete in kagglehub's cache is taken from there, without the network.
    Raises InputError for another name, and where Kaggle cannot be reached.
    """
    if dataset not in DATASETS:
        raise InputError(f"unknown data set {dataset!r}; expected one of {', '.join(DATASETS)}")
    import kagglehub
    from kagglehub.config import get_cache_folder

    handle = DATASETS[dataset]
    cached = Path(get_cache_folder()) / "datasets" / handle
    newest = newest_version(cached)
    if newest != cached and (cached / f"{newest.name}.complete").exists():
        return newest
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # kagglehub lets through whatever requests, urllib3 or Kaggle's API raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"Kaggle's data set {handle} cannot be downloaded ({reason}); check the network, or download it by hand "
            "and give its folder as img_root"
        ) from None


def describe_layout(images: dict[str, Path], img_root: str | Path) -> dict[str, int]:
    """How many images each folder below `img_root` holds: {"images_001/images": 211, ...}."""
    folders = Counter(path.parent for path in images.values())
    return {os.path.relpath(folder, img_root): count for folder, count in sorted(folders.items())}


def newest_version(folder: str | Path) -> Path:
    """The newest version in a folder of kagglehub's cache, complete ones first; any other folder as it is."""
    folder = Path(folder)
    versions = [path for path in (folder / "versions").glob("*") if path.name.isdigit() and path.is_dir()]

    def rank(path: Path) -> tuple[bool, int]:  # kagglehub marks what it has unpacked to the end
        return (folder / f"{path.name}.complete").exists(), int(path.name)

    return max(versions, key=rank) if versions else folder
