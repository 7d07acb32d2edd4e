"""The doctor's look at the image files: from a few bytes of each, or (deep) from every pixel."""

import hashlib
import os
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from cxrlib.core.errors import InputError
from cxrlib.core.progress import bar
from cxrlib.data.cache import cores, decode

PUBLISHED_SIDE = 1024  # pixels of NIH's radiographs
_SIGNATURE, _END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_COLORS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


class Header(NamedTuple):
    """What the first and the last bytes of a PNG say. `ends`: its last chunk is there; `mark` differs with content."""

    width: int
    height: int
    color: str
    depth: int
    interlaced: bool
    ends: bool
    mark: tuple[int, bytes]

    @property
    def kind(self) -> str:
        """Such as "grey", "RGBA", "16-bit grey", "palette, interlaced"."""
        bits = f"{self.depth}-bit " if self.depth != 8 and self.color != "palette" else ""
        return bits + self.color + (", interlaced" if self.interlaced else "")


def read_header(path: str | Path) -> Header | None:
    """The header of a PNG, from its first 33 and last 16 bytes; None where it is no PNG or its header is torn."""
    with open(path, "rb") as file:
        start = file.read(33)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 16))
        end = file.read(16)
    if len(start) < 33 or start[:8] != _SIGNATURE or start[8:16] != b"\0\0\0\rIHDR":
        return None
    width, height, depth, color, packing, filtering, interlaced, checksum = struct.unpack(">IIBBBBBI", start[16:])
    if checksum != zlib.crc32(start[12:29]) or depth not in _DEPTHS.get(color, ()) or not width or not height:
        return None
    if packing or filtering or interlaced > 1:
        return None
    return Header(width, height, _COLORS[color], depth, bool(interlaced), end.endswith(_END), (size, start[16:] + end))


def check_images(
    files: dict[str, list[Path]], used: set[str], deep: bool, progress: bool
) -> tuple[dict[str, list[str]], dict]:
    """Names by check, and facts, of the files: `files` holds the paths of each name, `used` what the CSV names."""
    found = defaultdict(list)
    headers = dict(_each(files, lambda paths: read_header(paths[0]), progress, "headers"))
    for name, paths in files.items():
        if len(paths) > 1:
            same = len({path.stat().st_size for path in paths}) == 1
            found["same name twice" if same else "two images of one name"].append(name)
    of_used = {name: headers[name] for name in files if name in used}
    _check_headers(of_used, found)
    if deep:
        alike = _check_pixels({name: files[name][0] for name in of_used}, found, progress)
    else:  # decoded is only what looks torn: a missing end may still hold every pixel
        torn = {name: files[name][0] for name, header in of_used.items() if header is None or not header.ends}
        _check_pixels(torn, found, progress=False)
        alike = _equal_files({name: files[name][0] for name in of_used}, headers)
    found["same picture twice"] = [f"{name} = {first}" for first, *others in alike for name in others]
    sizes = Counter(f"{header.width} x {header.height}" for header in headers.values() if header)
    kinds = Counter(header.kind for header in headers.values() if header)
    facts = {"sizes": dict(sizes.most_common()), "kinds": dict(kinds.most_common())}
    return found, facts


def _check_headers(headers: dict[str, Header | None], found: dict[str, list[str]]) -> None:
    sizes = Counter((header.width, header.height) for header in headers.values() if header)
    usual = sizes.most_common(1)[0][0] if sizes else None
    for name, header in headers.items():
        if header is None:
            continue
        if header.color != "grey" and header.color != "palette":
            found["colour or alpha"].append(f"{name} ({header.color})")
        if header.color == "palette":
            found["palette"].append(name)
        if header.depth == 16:
            found["16-bit"].append(name)
        if header.depth < 8 and header.color == "grey":
            found["fewer than 8 bits"].append(f"{name} ({header.depth})")
        if header.interlaced:
            found["interlaced"].append(name)
        if (header.width, header.height) != usual:
            found["another size"].append(f"{name} ({header.width} x {header.height})")
        elif header.width != PUBLISHED_SIDE or header.height != PUBLISHED_SIDE:
            found["not 1024 pixels"].append(name)
        if header.width != header.height:
            found["not square"].append(f"{name} ({header.width} x {header.height})")


def _check_pixels(paths: dict[str, Path], found: dict[str, list[str]], progress: bool) -> list[list[str]]:
    """Decode every file; names what cannot be decoded or shows nothing, and returns the groups of equal pictures."""

    def look(path: Path) -> tuple[bytes, bool] | InputError:
        try:
            grey = decode(path)
        except InputError as error:
            return error
        low, high = grey.getextrema()
        return hashlib.sha256(grey.tobytes() + str(grey.size).encode()).digest(), low == high

    same = defaultdict(list)
    for name, seen in _each(paths, look, progress, "decode"):
        if isinstance(seen, InputError):
            found["cannot be decoded"].append(name)
            continue
        picture, empty = seen
        if empty:
            found["one single grey"].append(name)
        else:
            same[picture].append(name)
    return [names for names in same.values() if len(names) > 1]


def _equal_files(paths: dict[str, Path], headers: dict[str, Header | None]) -> list[list[str]]:
    """Groups of names whose files are equal byte for byte; read are only those of one size, header and checksum."""
    alike = defaultdict(list)
    for name in paths:
        if headers[name]:
            alike[headers[name].mark].append(name)
    equal = defaultdict(list)
    for name in (name for names in alike.values() if len(names) > 1 for name in names):
        with paths[name].open("rb") as file:
            equal[hashlib.file_digest(file, "sha256").digest()].append(name)
    return [names for names in equal.values() if len(names) > 1]


def _each(items: dict, function: Callable, progress: bool, what: str) -> Iterator[tuple[str, object]]:
    """(name, function(item)) of all items, on all cores, in order."""

    def several(part: list) -> list:
        return [function(item) for item in part]

    names, step = list(items), 16
    parts: Iterable[list] = (
        [items[name] for name in names[start : start + step]] for start in range(0, len(names), step)
    )
    with ThreadPoolExecutor(cores()) as pool, bar(total=len(names), show=progress, desc=what, unit=" images") as shown:
        place = 0
        for results in pool.map(several, parts):
            yield from zip(names[place : place + len(results)], results, strict=True)
            place += len(results)
            shown.update(len(results))
