"""Decode and resize once: every radiograph of a source in one uint8 memory map.

Decoding a 1024-pixel PNG takes 8 to 10 ms in any library, reading a row of the map some microseconds. The cache is
keyed by its source (names, sizes and times of the files) and the image size, filled on demand on all cores, resumable
after any interruption, and safe for two processes at once: one works, the other waits.
"""

import json
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import cpu_count
from PIL import Image, ImageOps, UnidentifiedImageError

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import CACHE, one_process, write_json, write_rows
from cxrlib.core.progress import bar
from cxrlib.data.sources import content_digest, stamps

_FORMAT = 1  # in cache.json: increase it when `read_image` returns something else
ON_BAD_IMAGE = ("error", "skip")
_DONE, _BAD = 1, 2  # in done.npy; 0: not decoded yet
_BATCH = 512  # images per update of done.npy
_MOST_PIXELS = 1 << 26  # 8,192 x 8,192; the header of a small file may declare any number


class BadImage(InputError):
    """A readable file that is not a complete PNG."""


def read_image(path: str | Path, image_size: int) -> np.ndarray:
    """One radiograph as (image_size, image_size) uint8 grey.

    The whole image is kept: resized with an antialiasing filter, and padded with black where it is not square.
    Raises InputError for a file that is not a complete PNG.
    """
    return np.asarray(ImageOps.pad(decode(path), (image_size, image_size), Image.Resampling.BILINEAR))


def decode(path: str | Path) -> Image.Image:
    """One radiograph in its own size, in 8-bit grey (mode L).

    RGB, RGBA and palette images become their grey value (alpha is ignored), 16-bit images are scaled to 8 bits. Raises
    BadImage for a file that is not a complete PNG or has more pixels than any radiograph, InputError for one that
    cannot be read at all.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > _MOST_PIXELS:  # known before a pixel is unpacked
                raise ValueError(f"{image.width} x {image.height} pixels, more than any radiograph has")
            image.load()
            if image.mode.startswith("I"):  # 16-bit PNG; convert("L") would clip it at 255
                return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
            return image.convert("L")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a radiograph") from None
    except Exception as error:  # Pillow raises many types for a damaged file
        if getattr(error, "errno", None):  # an error of the disk or the network: the file may be intact
            raise InputError(f"{path} cannot be read ({error.strerror}); expected a radiograph") from None
        reason = "it is not a PNG" if isinstance(error, UnidentifiedImageError) else error
        raise BadImage(f"{path} cannot be decoded ({reason}); replace it by the published file") from None


class ImageCache:
    """Radiographs ready for a model: `images` (n, image_size, image_size) uint8, memory-mapped and read-only.

    Only rows requested from `build_cache` are filled; `rows` returns their numbers and refuses others. bad: images that
    cannot be decoded, name -> reason.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        meta = json.loads((self.folder / "cache.json").read_text())
        self.image_size: int = meta["image_size"]
        self.names: list[str] = (self.folder / "names.txt").read_text(encoding="utf-8").split("\n")
        self.images = np.load(self.folder / "images.npy", mmap_mode="r")
        path = self.folder / "bad.json"
        self.bad: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
        self._done = np.load(self.folder / "done.npy", mmap_mode="r")
        self._index = pd.Index(self.names)

    def __len__(self) -> int:
        """The number of cached radiographs."""
        return int(np.count_nonzero(self._done == _DONE))

    def __getitem__(self, name: str) -> np.ndarray:
        """One radiograph by its file name, (image_size, image_size) uint8."""
        return self.images[self.rows([name])[0]]

    def rows(self, names: Iterable[str]) -> np.ndarray:
        """Row numbers of image names, (n,) int64. Raises InputError for a name that is not cached."""
        names = list(names)
        rows = self._index.get_indexer(names)
        missing = [name for name, row in zip(names, rows, strict=True) if row < 0 or self._done[row] != _DONE]
        if missing:
            raise InputError(f"the cache {self.folder} does not hold {some(missing)}; call build_cache with them")
        return rows

    def keep_good(self, entries: pd.DataFrame) -> pd.DataFrame:
        """The entries (with a column image) whose image can be decoded (is not in `bad`)."""
        return entries[~entries["image"].isin(self.bad)] if self.bad else entries

    def _missing(self, names: list[str]) -> np.ndarray:
        """The sorted, distinct rows of the names that have not been tried yet."""
        rows = np.unique(self._index.get_indexer(names))
        return rows[self._done[rows] == 0]


def build_cache(
    images: dict[str, Path],
    image_size: int,
    names: Iterable[str] | None = None,
    cache_dir: str | Path = CACHE,
    workers: int | None = None,
    progress: bool = True,
    on_bad_image: str = "error",
) -> ImageCache:
    """Fill the cache of a source with the radiographs `names` (default: all of `images`), and open it.

    images: the source, file name -> path, from `find_images`. image_size: pixels per side, at least 16. workers:
    threads that decode (Pillow releases the interpreter lock); default: one per core. on_bad_image: "error", or "skip":
    images that cannot be decoded are counted, named, kept in `ImageCache.bad`, and left out of every dataset over this
    cache. Images that are in this cache, or in another one of the same files in `cache_dir`, are not decoded again.
    Raises InputError for a name that is not in `images`, too little space, a folder that cannot be written, and, after
    all others are done, for images that cannot be decoded.
    """
    names = list(images) if names is None else list(names)
    unknown = [name for name in names if name not in images]
    if unknown or image_size < 16 or not images:
        what = f"{some(unknown)} not among the images found" if unknown else f"image_size {image_size} is below 16"
        raise InputError(f"the cache cannot be built: {what if images else 'there is no image'}")
    if on_bad_image not in ON_BAD_IMAGE:
        raise InputError(f"on_bad_image is {on_bad_image!r}; expected {' or '.join(ON_BAD_IMAGE)}")
    folder = Path(cache_dir) / f"{content_digest((), images.values())}-{image_size}"
    cache = ImageCache(folder) if _is_laid_out(folder) else None
    if cache is None or len(cache._missing(names)):  # a full cache may be read-only
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with one_process(folder / "lock", f"filling {folder}"):
                cache = _fill_up(folder, images, names, image_size, workers, progress)
        except OSError as error:
            raise InputError(f"the cache cannot be written to {folder} ({error.strerror or error}); what is done is "
                             "kept: make room, or choose another cache_dir") from None  # fmt: skip
    bad = {name: cache.bad[name] for name in names if name in cache.bad}
    if bad and on_bad_image == "error":
        reasons = "; ".join(list(bad.values())[:3])
        raise InputError(
            f"{len(bad)} of {len(names):,} images cannot be used: {reasons} (or leave them out: on_bad_image=skip)"
        )
    if bad:
        print(f"{len(bad)} of {len(names):,} images cannot be decoded and are left out: {some(bad)}")
    return cache


def _fill_up(folder, images, names, image_size, workers, progress) -> ImageCache:
    """Decode what is missing of `names` into the cache in `folder`. One process at a time."""
    if not _is_laid_out(folder):
        _lay_out(folder, images, image_size)
    cache = ImageCache(folder)
    missing = cache._missing(names)
    if len(missing):
        _check_space(folder, len(missing) * cache.images[0].nbytes)
        missing = _take_over(cache, missing)
        bad = _fill(cache, [(int(row), images[cache.names[row]]) for row in missing], workers, progress)
        if bad:
            write_json(folder / "bad.json", cache.bad | bad)
            _mark(cache, cache._index.get_indexer(list(bad)), _BAD)
    return ImageCache(folder)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the cache needs {needed / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} GB are free; make room, "
            "choose a smaller image_size, or another cache_dir"
        )


def _take_over(cache: ImageCache, rows: np.ndarray) -> np.ndarray:
    """Copy rows that another cache of this size has of the same files, and return those still missing.

    One image replaced, or one more archive unpacked, makes another source, most of which was decoded before.
    """
    mine_stamps = np.load(cache.folder / "stamps.npy")
    for folder in sorted(cache.folder.parent.glob(f"*-{cache.image_size}")):
        if folder == cache.folder or not _is_laid_out(folder):
            continue
        other, other_stamps = ImageCache(folder), np.load(folder / "stamps.npy")
        theirs = other._index.get_indexer([cache.names[row] for row in rows])
        same = (theirs >= 0) & (other_stamps[theirs] == mine_stamps[rows]).all(axis=1) & (other._done[theirs] == _DONE)
        mine, theirs = rows[same], theirs[same]
        for start in range(0, len(mine), _BATCH):
            part = slice(start, start + _BATCH)
            _write(cache, dict(zip(mine[part].tolist(), other.images[theirs[part]], strict=True)))
        rows = rows[~same]
    return rows


def _fill(cache: ImageCache, work: list[tuple[int, Path]], workers: int | None, progress: bool) -> dict[str, str]:
    """Decode the images of some rows into the cache; returns the undecodable ones: name -> reason."""
    bad = {}

    def read(item: tuple[int, Path]) -> np.ndarray | str:
        try:
            return read_image(item[1], cache.image_size)
        except BadImage as error:
            return str(error)

    with (
        ThreadPoolExecutor(workers or cpu_count()) as pool,
        bar(total=len(work), show=progress, desc="decode and resize", unit=" images") as shown,
    ):
        for start in range(0, len(work), _BATCH):
            good = {}
            for (row, _), pixels in zip(part := work[start : start + _BATCH], pool.map(read, part), strict=True):
                shown.update()
                if isinstance(pixels, str):
                    bad[cache.names[row]] = pixels
                else:
                    good[row] = pixels
            _write(cache, good)
    return bad


def _write(cache: ImageCache, rows: dict[int, np.ndarray]) -> None:
    """Write some rows and, once they are on the disk, their marks."""
    content = ((row, pixels.tobytes()) for row, pixels in rows.items())
    write_rows(cache.folder / "images.npy", cache.images.offset, content)
    _mark(cache, list(rows), _DONE)


def _mark(cache: ImageCache, rows: list[int] | np.ndarray, value: int) -> None:
    done = np.load(cache.folder / "done.npy", mmap_mode="r+")
    done[rows] = value
    done.flush()


def _is_laid_out(folder: Path) -> bool:
    """Whether a folder is a cache whose images are as `read_image` returns them today."""
    path = folder / "cache.json"
    return path.is_file() and json.loads(path.read_text())["format"] == _FORMAT


def _lay_out(folder: Path, images: dict[str, Path], image_size: int) -> None:
    """Create the empty files of a cache; cache.json, the last one, marks the others as complete."""
    (folder / "bad.json").unlink(missing_ok=True)  # of another format
    names, sizes, times = zip(*stamps(images.values()), strict=True)
    shape = (len(names), image_size, image_size)
    np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape).flush()  # sparse
    np.save(folder / "stamps.npy", np.array([sizes, times], dtype=np.int64).T)
    np.save(folder / "done.npy", np.zeros(len(names), dtype=np.uint8))
    (folder / "names.txt").write_text("\n".join(names), encoding="utf-8")
    write_json(folder / "cache.json", {"format": _FORMAT, "image_size": image_size, "images": len(names)})
