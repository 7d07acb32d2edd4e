"""The doctor's checks of the image files: from a few bytes of each, or (deep) from every pixel."""

import hashlib
import os
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from joblib import Parallel, delayed
from PIL import Image

from cxrlib.core.errors import InputError
from cxrlib.core.progress import bar
from cxrlib.data import images

_SIGNATURE, _END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_COLORS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


class Header(NamedTuple):
    """The header of an image.

    size: such as "1024 x 1024"; kind: such as "grey", "RGBA", "16-bit grey", "palette, interlaced", "JPEG L", "DICOM";
    ends: a PNG has its last chunk, a JPEG its end; mark: the same for identical files.
    """

    size: str
    kind: str
    ends: bool
    mark: tuple[int, bytes]


def read_header(path: str | Path) -> Header | None:
    """The header of an image, for a PNG from 49 bytes; None for another file or a damaged header."""
    with open(path, "rb") as file:
        start = file.read(33)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 16))
        end = file.read(16)
    if start[:8] != _SIGNATURE:
        return _other_header(path, end, (size, start + end))
    if len(start) < 33 or start[8:16] != b"\0\0\0\rIHDR":
        return None
    width, height, depth, color, packing, filtering, interlaced, checksum = struct.unpack(">IIBBBBBI", start[16:])
    if checksum != zlib.crc32(start[12:29]) or depth not in _DEPTHS.get(color, ()) or not width or not height:
        return None
    if packing or filtering or interlaced > 1:
        return None
    bits = f"{depth}-bit " if depth != 8 and color != 3 else ""
    kind = bits + _COLORS[color] + (", interlaced" if interlaced else "")
    return Header(f"{width} x {height}", kind, end.endswith(_END), (size, start[16:] + end))


def _other_header(path: str | Path, end: bytes, mark: tuple[int, bytes]) -> Header | None:
    """The header of a JPEG or DICOM file. The latter never `ends`: its pixels are needed to trust its header."""
    try:
        with open(path, "rb") as file:
            is_dicom = images.is_dicom(file.read(132))
            file.seek(0)
            if is_dicom:
                found = images.read_header(file)
                return Header(f"{found['Columns']} x {found['Rows']}", "DICOM", False, mark)
            with Image.open(file, formats=("JPEG",)) as image:
                return Header(f"{image.width} x {image.height}", f"JPEG {image.mode}", end.endswith(b"\xff\xd9"), mark)
    except Exception:  # Pillow raises many types
        return None


def check_images(
    files: dict[str, list[Path]], used: set[str], deep: bool, progress: bool
) -> tuple[dict[str, list[str]], dict]:
    """Names by check, and facts, of the files: `files` has the paths of each name, `used` the names in the CSV."""
    found = defaultdict(list)
    for name, paths in files.items():
        if len(paths) > 1:
            same = len({path.stat().st_size for path in paths}) == 1
            found["same name twice" if same else "two images of one name"].append(name)
    headers = dict(_each({name: paths[0] for name, paths in files.items()}, read_header, progress, "headers"))
    usable = {name: header for name, header in headers.items() if header}
    usual = Counter(header.size for name, header in usable.items() if name in used).most_common(1)
    for name, header in usable.items():
        if name in used and header.kind != "grey":
            found["not 8-bit grey"].append(f"{name} ({header.kind})")
        if name in used and header.size != usual[0][0]:
            found["another size"].append(f"{name} ({header.size})")
    paths = {name: files[name][0] for name in headers if name in used}
    if deep:
        alike = _check_pixels(paths, found, progress)
    else:  # decode only what looks truncated: without its end, a file may still have every pixel
        truncated = {name: path for name, path in paths.items() if name not in usable or not usable[name].ends}
        _check_pixels(truncated, found, progress=False)
        alike = _equal_files(paths, usable)
    found["same picture twice"] = [f"{name} = {first}" for first, *others in alike for name in others]
    sizes = Counter(header.size for header in usable.values())
    kinds = Counter(header.kind for header in usable.values())
    return found, {"sizes": dict(sizes.most_common()), "kinds": dict(kinds.most_common())}


def _check_pixels(paths: dict[str, Path], found: dict[str, list[str]], progress: bool) -> list[list[str]]:
    """Decode every file, note undecodable, uniform and doubtful ones, and return the groups of equal pictures."""

    def look(path: Path) -> tuple[str | bytes, tuple[str, ...]]:
        try:
            radiograph = images.read_radiograph(path)
        except InputError:
            return "cannot be decoded", ()
        grey = radiograph.grey
        low, high = grey.getextrema()
        known = hashlib.sha256(grey.tobytes() + str(grey.size).encode()).digest()
        return "one single grey" if low == high else known, radiograph.warnings

    same = defaultdict(list)
    for name, (result, warnings) in _each(paths, look, progress, "decode"):
        (found if isinstance(result, str) else same)[result].append(name)
        if warnings:
            found["read with a warning"].append(f"{name} ({'; '.join(warnings)})")
    return [names for names in same.values() if len(names) > 1]


def _equal_files(paths: dict[str, Path], headers: dict[str, Header]) -> list[list[str]]:
    """Groups of names whose files are identical; only files of the same size, header and checksum are read."""
    marks = Counter(headers[name].mark for name in paths if name in headers)
    equal = defaultdict(list)
    for name, path in paths.items():
        if name in headers and marks[headers[name].mark] > 1:
            equal[hashlib.sha256(path.read_bytes()).digest()].append(name)
    return [names for names in equal.values() if len(names) > 1]


def _each(items: dict, function: Callable, progress: bool, what: str) -> Iterator[tuple[str, object]]:
    """(name, function(item)) of all items, on all cores, in order."""
    parallel = Parallel(n_jobs=-1, prefer="threads", batch_size=16, return_as="generator")
    results = parallel(delayed(function)(item) for item in items.values())
    return zip(items, bar(results, progress, total=len(items), desc=what, unit=" images"), strict=True)
