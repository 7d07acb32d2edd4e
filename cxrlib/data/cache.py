"""Decode and resize once: every radiograph of a source in one uint8 memory map, filled on demand, by one process."""

import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import cpu_count

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import CACHE, one_process, read_json, write_json, write_rows
from cxrlib.core.progress import bar
from cxrlib.data.images import BadImage, read_image
from cxrlib.data.sources import content_digest

_FORMAT = 3  # part of the key: increase it when `read_image` returns something else
_BATCH = 512  # images per update of done.npy


class ImageCache:
    """Radiographs ready for a model: `images` (n, image_size, image_size) uint8, memory-mapped and read-only.

    bad: name -> reason, of images that cannot be decoded. len: of those cached; cache[name]: one, as (h, w).
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).absolute()
        names = (self.folder / "names.txt").read_bytes().decode("utf-8", "surrogateescape")  # "\r" is part of a name
        self.names = pd.Index([name.replace("\0", "\n") for name in names.split("\n")])
        self.images = np.load(self.folder / "images.npy", mmap_mode="r")
        self.image_size = self.images.shape[-1]
        self.bad: dict[str, str] = read_json(self.folder / "bad.json")
        self._done = np.load(self.folder / "done.npy", mmap_mode="r").view(bool)

    def __reduce__(self):
        return ImageCache, (self.folder,)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._done))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.images[self.rows([name])[0]]

    def rows(self, names: Iterable[str]) -> np.ndarray:
        """Row numbers of image names, (n,) int64. Raises InputError for a name that is not cached."""
        names = list(names)
        rows = self.names.get_indexer(names)
        if missing := [name for name, row in zip(names, rows, strict=True) if row < 0 or not self._done[row]]:
            raise InputError(f"the cache {self.folder} does not hold {some(missing)}; call build_cache with them")
        return rows

    def keep_good(self, entries: pd.DataFrame) -> pd.DataFrame:
        """The entries whose image is not in `bad`."""
        return entries[~entries["image"].isin(self.bad)]

    def _missing(self, names: list[str]) -> np.ndarray:
        """The sorted, distinct rows of the names that have not been tried yet."""
        rows = np.unique(self.names.get_indexer(names))
        return rows[~self._done[rows] & ~self.names[rows].isin(self.bad)]


def build_cache(
    images: dict[str, Path], image_size: int, names=None, cache_dir=CACHE, progress=True, on_bad_image="error"
) -> ImageCache:
    """Fill the cache of a source with the radiographs `names` (default: all of `images`), and open it.

    images: the source, file name -> path. image_size: pixels per side. cache_dir: a folder for the caches of all.
    on_bad_image: "skip" names images that cannot be decoded and leaves them out of every dataset (`ImageCache.bad`).
    Raises InputError for them ("error") once others are done, for names outside `images`, want of space or permission.
    """
    names = list(images) if names is None else list(names)
    if unknown := [name for name in names if name not in images]:
        raise InputError(f"the cache cannot be built: {some(unknown)} not among the images found")
    folder = Path(cache_dir) / f"{content_digest((), images)}v{_FORMAT}-{image_size}"
    cache = ImageCache(folder) if (folder / "cache.json").is_file() else None
    if cache is None or len(cache._missing(names)):  # a full cache may be read-only
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with one_process(folder / "lock", f"filling {folder}"):
                if not (folder / "cache.json").is_file():
                    _lay_out(folder, images, image_size)
                cache = _fill_up(ImageCache(folder), images, names, progress)
        except OSError as error:
            raise InputError(f"the cache cannot be written to {folder} ({error.strerror or error}); what is done is "
                             "kept: make room, or choose another cache_dir") from None  # fmt: skip
    if bad := [name for name in names if name in cache.bad]:
        those = f"{len(bad)} of {len(names):,} images cannot be"
        if on_bad_image == "error" or len(bad) == len(names):
            reasons = "; ".join(cache.bad[name] for name in bad[:3])
            raise InputError(f"{those} used: {reasons} (on_bad_image=skip leaves them out where others remain)")
        print(f"{those} decoded and are left out: {some(bad)}")
    return cache


def _fill_up(cache: ImageCache, images: dict[str, Path], names: list[str], progress: bool) -> ImageCache:
    """Copy or decode what the cache lacks of `names`, and open it anew. One process at a time."""
    missing = cache._missing(names)
    needed, free = len(missing) * cache.images[0].nbytes, shutil.disk_usage(cache.folder).free
    if needed > free:
        raise InputError(f"the cache needs {needed / 1e9:.1f} GB in {cache.folder} and {free / 1e9:.1f} GB are free; "
                         "make room, choose a smaller image_size, or another cache_dir")  # fmt: skip
    missing, bad = _take_over(cache, missing), {}

    def read(row: int) -> np.ndarray | str:
        try:
            return read_image(images[cache.names[row]], cache.image_size)
        except BadImage as error:
            return str(error)

    shown = bar(total=len(missing), show=progress, desc="decode and resize", unit=" images")
    with ThreadPoolExecutor(cpu_count()) as pool, shown:
        for start in range(0, len(missing), _BATCH):
            rows, good = missing[start : start + _BATCH], {}
            for row, found in zip(rows, pool.map(read, rows), strict=True):
                shown.update()
                (bad if isinstance(found, str) else good)[row] = found
            _write(cache, good, good.values())
    if bad:
        write_json(cache.folder / "bad.json", cache.bad | {cache.names[row]: bad[row] for row in sorted(bad)})
    return ImageCache(cache.folder)


def _take_over(cache: ImageCache, rows: np.ndarray) -> np.ndarray:
    """Copy rows that the cache of another source (before an archive was added) has; return those still missing."""
    our_stamps = np.load(cache.folder / "stamps.npy")
    whole = {path.parent for path in cache.folder.parent.glob(f"*v{_FORMAT}-{cache.image_size}/cache.json")}
    for folder in sorted(whole - {cache.folder}):
        other, their_stamps = ImageCache(folder), np.load(folder / "stamps.npy")
        theirs = other.names.get_indexer(cache.names[rows])
        same = (theirs >= 0) & (their_stamps[theirs] == our_stamps[rows]).all(axis=1) & other._done[theirs]
        _write(cache, rows[same], (other.images[row] for row in theirs[same]))
        rows = rows[~same]
    return rows


def _write(cache: ImageCache, rows: Iterable[int], pixels: Iterable[np.ndarray]) -> None:
    """Write some rows and, once they are on the disk, that they are done."""
    content = ((int(row), each.tobytes()) for row, each in zip(rows, pixels, strict=True))
    write_rows(cache.folder / "images.npy", cache.images.offset, content)
    done = np.load(cache.folder / "done.npy", mmap_mode="r+")
    done[list(rows)] = 1
    done.flush()


def _lay_out(folder: Path, images: dict[str, Path], image_size: int) -> None:
    """Create the empty files of a cache; cache.json, the last one, marks the others as complete."""
    names = sorted(images)  # not those of the files, which another hospital may use again in each folder
    stats = (images[name].stat() for name in names)  # the number of a file tells those of equal size and time apart
    known = [(stat.st_size, stat.st_mtime_ns, stat.st_ino & (1 << 63) - 1) for stat in stats]
    shape = (len(names), image_size, image_size)
    np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape).flush()  # sparse
    np.save(folder / "stamps.npy", np.array(known, dtype=np.int64))
    np.save(folder / "done.npy", np.zeros(len(names), dtype=np.uint8))
    lines = "\n".join(name.replace("\n", "\0") for name in names)  # which no name holds
    (folder / "names.txt").write_text(lines, encoding="utf-8", errors="surrogateescape")
    write_json(folder / "cache.json", {"format": _FORMAT, "image_size": image_size, "images": len(names)})
