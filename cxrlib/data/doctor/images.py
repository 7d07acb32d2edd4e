"""The doctor's checks of the image files: from the first and last bytes of each, or (deep) from every pixel."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from joblib import Parallel, delayed
from PIL import Image

from cxrlib.core.errors import InputError
from cxrlib.core.progress import bar
from cxrlib.data import images

_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_KINDS = {"1": "1-bit grey", "L": "grey", "LA": "grey with alpha", "P": "palette", "I": "16-bit grey"}


class Header(NamedTuple):
    """The header of an image, such as "1024 x 1024", "palette, interlaced", "JPEG L", "DICOM".

    ends: whether the file ends as its format does; of DICOM never: its pixels are needed to trust its header.
    mark is the same for identical files: their length, header, and the checksum of their last pixels.
    """

    size: str
    kind: str
    ends: bool
    mark: tuple


def read_header(path: str | Path) -> Header | None:
    """The header of an image, without its pixels; None for another file, a damaged header, or no permission to read."""
    try:
        with open(path, "rb") as file:
            is_dicom = images.is_dicom(file.read(132))
            file.seek(0)
            if is_dicom:
                found = images.read_header(file)
                size, kind, last = f"{found['Columns']} x {found['Rows']}", "DICOM", None
            else:
                with Image.open(file, formats=("PNG", "JPEG")) as image:
                    size, mode = f"{image.width} x {image.height}", image.mode.partition(";")[0]
                    kind = _KINDS.get(mode, mode) + ", interlaced" * bool(image.info.get("interlace"))
                    kind, last = f"JPEG {mode}" if image.format == "JPEG" else kind, _ENDS[image.format]
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - 16))
            end = file.read()
    except Exception:  # Pillow raises many types for a damaged file
        return None
    return Header(size, kind, bool(last) and end.endswith(last), (length, size, kind, end))


def check_images(
    files: dict[str, list[Path]], used: set[str], deep: bool, progress: bool
) -> tuple[dict[str, list[str]], dict]:
    """Names by check, and facts, of the files: `files` has the paths of each name, `used` the names in the CSV."""
    found = defaultdict(list)
    for name, paths in files.items():
        if len(paths) > 1:
            same = len({path.stat().st_size for path in paths}) == 1
            found["same name twice" if same else "two images of one name"].append(name)
    headers = _each({name: paths[0] for name, paths in files.items()}, read_header, progress, "headers")
    headers = {name: header for name, header in headers if header}
    paths = {name: paths[0] for name, paths in files.items() if name in used}
    known = {name: headers[name] for name in paths if name in headers}
    usual = Counter(header.size for header in known.values()).most_common(1)
    found["not 8-bit grey"] = [f"{name} ({header.kind})" for name, header in known.items() if header.kind != "grey"]
    found["another size"] = [f"{name} ({header.size})" for name, header in known.items() if header.size != usual[0][0]]
    if deep:
        marks = _check_pixels(paths, found, progress)
    else:  # decode only what looks truncated: without its end, a file may still have every pixel
        marks = {name: header.mark for name, header in known.items()}
        truncated = {name: path for name, path in paths.items() if name not in known or not known[name].ends}
        _check_pixels(truncated, found, progress=False)
    first = {}
    for name, mark in marks.items():
        if first.setdefault(mark, name) != name:
            found["same picture twice"].append(f"{name} = {first[mark]}")
    sizes, kinds = (Counter(getattr(header, what) for header in headers.values()) for what in ("size", "kind"))
    return found, {"sizes": dict(sizes.most_common()), "kinds": dict(kinds.most_common())}


def _check_pixels(paths: dict[str, Path], found: dict[str, list[str]], progress: bool) -> dict[str, bytes]:
    """Decode every file, note undecodable, uniform and doubtful images; a digest of the pixels of the rest."""

    def look(path: Path) -> tuple[str, str | bytes, tuple[str, ...]]:
        try:
            radiograph = images.read_radiograph(path)
        except InputError as error:
            return "cannot be decoded", "" if isinstance(error, images.BadImage) else " (not readable)", ()
        grey = radiograph.grey
        low, high = grey.getextrema()
        if low == high:
            return "one single grey", "", radiograph.warnings
        return "", hashlib.sha256(grey.tobytes() + str(grey.size).encode()).digest(), radiograph.warnings

    digests = {}
    for name, (check, seen, warnings) in _each(paths, look, progress, "decode"):
        if warnings:
            found["read with a warning"].append(f"{name} ({'; '.join(warnings)})")
        if check:
            found[check].append(name + seen)
        else:
            digests[name] = seen
    return digests


def _each(items: dict, function: Callable, progress: bool, what: str) -> Iterator[tuple[str, object]]:
    """(name, function(item)) of all items, on all cores, in order."""
    parallel = Parallel(n_jobs=-1, prefer="threads", batch_size=16, return_as="generator")
    results = parallel(delayed(function)(item) for item in items.values())
    return zip(items, bar(results, progress, total=len(items), desc=what, unit=" images"), strict=True)
