"""Read a radiograph: PNG, JPEG or DICOM, known by its content, as 8-bit grey with dark lungs.

A DICOM file is shown as its header says, as NIH did (Wang et al. 2017), and the pixels are then asked whether that was
right. Images become square as NIH's own did: squeezed, neither padded nor cropped.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cxrlib.core.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
_MOST_PIXELS = 1 << 26  # 8,192 x 8,192; the header of a small file may declare any number
# left half of the mean of nih-mini's 3,068 images on 8 x 8 cells, each standardized, and its mirror image
_CHEST = np.array([[-17, -15, -10, 1], [-4, -1, -5, -1], [2, 1, -9, -1], [0, 0, -7, 2],
                   [-3, 0, -2, 7], [-5, 2, 5, 11], [-8, 5, 11, 14], [-8, 7, 13, 15]]) / 10  # fmt: skip
_NUMBERS = ("Rows", "Columns", "NumberOfFrames")
# of a DICOM file only these elements are parsed, so that no name can be passed on
_READ = (*_NUMBERS, "ViewPosition", "BodyPartExamined", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
         "HighBit", "PixelRepresentation", "SamplesPerPixel", "PlanarConfiguration", "PixelPaddingValue",
         "RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth", "VOILUTFunction",
         "VOILUTSequence", "ModalityLUTSequence", "PixelData")  # fmt: skip
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of JPEG and JPEG-LS that a size follows
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # a small file of this transfer syntax may unpack to any size


class BadImage(InputError):
    """A readable file that is not a complete PNG, JPEG or DICOM radiograph."""


@dataclass(frozen=True)
class Radiograph:
    """One radiograph in its own size, 8-bit grey, with sentences on what was corrected or is doubtful."""

    grey: Image.Image
    warnings: tuple[str, ...] = ()
    is_dicom: bool = False

    def square(self, side: int) -> np.ndarray:
        """(side, side) uint8: the whole image, resized with an antialiasing filter."""
        return np.asarray(self.grey.resize((side, side), Image.Resampling.BILINEAR))


def read_image(path: str | Path, image_size: int) -> np.ndarray:
    """One radiograph as (image_size, image_size) uint8 grey. Raises as `read_radiograph` does."""
    return read_radiograph(path).square(image_size)


def read_radiograph(path: str | Path | BinaryIO) -> Radiograph:
    """A PNG, JPEG or DICOM file, or an open one with a `name`, in 8-bit grey: no alpha, the upper 8 of 16 bits.

    Raises BadImage for another or damaged file, more than one frame, or more pixels than any radiograph; InputError for
    a file that cannot be read at all, or whose decoder is not installed.
    """
    name = path if isinstance(path, str | Path) else path.name
    try:
        with open(path, "rb") if name is path else nullcontext(path) as file:
            return _dicom(file) if is_dicom(file.read(132)) else _picture(file)
    except FileNotFoundError:
        raise InputError(f"{name} does not exist; expected a radiograph") from None
    except Exception as error:  # Pillow raises many types for a damaged file
        if isinstance(error, MemoryError) or getattr(error, "errno", None):  # of the machine: the file may be intact
            reason = getattr(error, "strerror", "memory ran out")
            raise InputError(f"{name} cannot be read ({reason}); expected a radiograph") from None
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is neither PNG, JPEG nor DICOM, or its header is damaged" if unknown else error
        kind = type(error) if isinstance(error, InputError) else BadImage
        raise kind(f"{name} cannot be decoded ({reason}); expected a whole PNG, JPEG or DICOM file") from None


def is_image(path: str | Path) -> bool:
    """Whether a file is an image by its suffix; one without a suffix, or named by a UID, by its first bytes."""
    if (suffix := Path(path).suffix.lower()) and not suffix[1:].isdigit():
        return suffix in SUFFIXES
    with suppress(OSError), open(path, "rb") as file:
        start = file.read(132)
        return start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or is_dicom(start)
    return False


def looks_inverted(grey: Image.Image | np.ndarray) -> bool:
    """Whether a frontal chest radiograph, upright or upside down, fits a mean chest (8 x 8 cells) better inverted.

    Of 3,068 NIH images 3 are found inverted (2 are), of 247 of JSRT none, of 103 of vqa-rad 1 (it is not); of their
    inversions 15, 2 and 1 are missed.
    """
    cells = np.asarray(Image.fromarray(np.asarray(grey)).resize((8, 8), Image.Resampling.BOX), dtype=np.float64)
    cells = (cells - cells.mean()) / (cells.std() + 1e-9)
    chest = np.hstack([_CHEST, _CHEST[:, ::-1]])
    chest = (chest - chest.mean()) / chest.std()
    fits = [(cells * one).mean() for one in (chest, chest[::-1])]
    return bool(-min(fits) - max(fits) > 0.1)


def _picture(file: BinaryIO) -> Radiograph:
    with Image.open(file, formats=("PNG", "JPEG")) as image:
        _check_size(image.width, image.height)  # known before a pixel is unpacked
        image.load()
        if image.mode.startswith("I"):  # 16-bit PNG; convert("L") would clip it at 255
            values = np.asarray(image).astype(np.uint32)
            dark = ("its 16-bit values use less than a sixteenth of their range; it is nearly black",)
            return Radiograph(Image.fromarray((values >> 8).astype(np.uint8)), dark * bool(values.max() < 4096))
        if image.format == "JPEG":
            image = ImageOps.exif_transpose(image)
        return Radiograph(image.convert("L"), _colour(image))


def _colour(image: Image.Image) -> tuple[str, ...]:
    """A warning for a colour picture: channels that differ by more than 8 of 255 on average."""
    small = np.asarray(image.resize((32, 32), Image.Resampling.NEAREST).convert("RGB"), dtype=np.float64)
    return ("it is a colour picture; its grey values are used",) if np.ptp(small, axis=2).mean() > 8 else ()


def _check_size(width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise BadImage(f"{width} x {height} pixels, more than any radiograph has")


def is_dicom(start: bytes) -> bool:
    """With its preamble; or without one, beginning with group 2 or 8, little endian."""
    return start[128:132] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00")


def read_header(file: BinaryIO) -> dict[str, int]:
    """Those of the `_NUMBERS` that a DICOM file has."""
    data = _read(file, stop_before_pixels=True)
    with _no_quotation("its header is damaged"):
        return {name: int(data[name].value) for name in _NUMBERS if data.get(name) is not None}


@contextmanager
def _no_quotation(reason: str) -> Iterator[None]:
    """Any error becomes a BadImage with this reason: pydicom's errors can quote the header."""
    try:
        yield
    except Exception as error:
        raise error if isinstance(error, InputError) else BadImage(reason) from None


def _read(file: BinaryIO, **options):
    try:
        from pydicom import config, dcmread, uid
    except ImportError:
        raise InputError("reading DICOM needs pydicom: pip install -e '.[dicom]'") from None
    config.settings.reading_validation_mode = config.IGNORE  # its warnings quote what is invalid
    file.seek(0)
    if _DEFLATED in file.read(4096):
        raise BadImage("deflated DICOM files are not read")
    file.seek(0)
    with _no_quotation("its header is damaged"):
        data = dcmread(file, force=True, specific_tags=list(_READ), **options)
        if "TransferSyntaxUID" not in data.file_meta:
            implicit, little = data.original_encoding
            plain = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
            data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else plain
    return data


def _dicom(file: BinaryIO) -> Radiograph:
    header = read_header(file)
    rows, columns, frames = (header.get(name, 1) for name in _NUMBERS)
    if frames > 1:
        raise BadImage(f"it has {frames} frames; expected one radiograph")
    _check_size(columns, rows)
    data = _read(file)
    if "PixelData" not in data:
        raise BadImage("it holds no pixels")
    with _no_quotation("its rescaling, window or lookup table cannot be applied"):
        return _displayed(data, _stored_values(data, (rows, columns)))


def _stored_values(data, size: tuple[int, int]) -> np.ndarray:
    from pydicom import encaps, pixels, uid

    syntax = data.file_meta.TransferSyntaxUID
    with _no_quotation("its transfer syntax is not one of a radiograph"):
        decoder = pixels.get_decoder(syntax)
    if not decoder.is_available:
        raise InputError(f"its compression, {syntax.name}, needs a decoder: pip install -e '.[dicom]'")
    with _no_quotation(f"its pixels ({syntax.name}) are damaged or of a kind that no decoder reads"):
        if syntax.is_encapsulated and syntax != uid.RLELossless:  # RLE cannot state a size of its own
            picture = encaps.get_frame(data.PixelData, 0, number_of_frames=1)
            if _stated_size(picture) != size:  # before it is unpacked, to any size
                raise ValueError
        return pixels.pixel_array(data)


def _stated_size(picture: bytes) -> tuple[int, int]:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream states."""
    if not picture.startswith(b"\xff\xd8"):
        at = picture.index(b"\xff\x4f\xff\x51")
        columns, rows = struct.unpack(">II", picture[at + 8 : at + 16])
        return rows, columns
    at = 2
    while (marker := picture[at + 1]) not in _FRAMES:
        at += 1 if marker == 0xFF else 2 + int.from_bytes(picture[at + 2 : at + 4])  # 0xFF: a fill byte
    return struct.unpack(">HH", picture[at + 5 : at + 9])


def _displayed(data, values: np.ndarray) -> Radiograph:
    """The values as the header wants them displayed, and corrected where the pixels contradict it."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    if values.ndim == 3:
        colour = Image.fromarray((values >> max(0, int(data.BitsStored) - 8)).astype(np.uint8))
        return _checked(data, colour.convert("L"), "colour", [*_colour(colour)])
    for name in ("RescaleSlope", "RescaleIntercept", "VOILUTFunction", "WindowWidth"):
        value = data.get(name, 1)  # without one, or of a width below 1, the element cannot be applied
        if value in (None, "") or (name == "WindowWidth" and min(np.atleast_1d(value).astype(float)) < 1):
            del data[name]
    values, warnings = apply_modality_lut(values, data), []
    shown = apply_voi_lut(values, data)
    between = (shown > shown.min()) & (shown < shown.max())  # neither black nor white
    windowed = shown is not values  # an element may be there and empty
    if windowed and between.mean() < 0.2:
        warnings.append("the window of the header hides most of the image; the percentiles 0.5 and 99.5 are used")
    if not windowed or warnings:
        padding = np.array([value for value in [data.get("PixelPaddingValue")] if value is not None], dtype=int)
        low, high = np.percentile(values[~np.isin(values, apply_modality_lut(padding, data))], (0.5, 99.5))
        shown = np.clip(values.astype(np.float64), low, high)
    low, high = float(shown.min()), float(shown.max())
    grey = Image.fromarray(np.round((shown - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))
    polarity = "MONOCHROME1" if data.get("PhotometricInterpretation") == "MONOCHROME1" else "MONOCHROME2"
    if polarity == "MONOCHROME1":
        grey = ImageOps.invert(grey)
    return _checked(data, grey, polarity, warnings)


def _checked(data, grey: Image.Image, polarity: str, warnings: list[str]) -> Radiograph:
    """The picture as a radiograph, inverted where it is a chest with bright air."""
    # a hip with bright bone is not inverted to look like a chest
    part = str(data.get("BodyPartExamined") or "CHEST").upper()  # also of several
    if not any(name in part for name in ("CHEST", "THORA", "TORAX", "LUNG")):
        warnings.append("the header names another part of the body than the chest")
    elif looks_inverted(grey):
        grey = ImageOps.invert(grey)
        warnings.append(f"the header says {polarity}, with which air is bright; inverted")
    if data.get("ViewPosition") in ("LL", "RL", "LATERAL"):
        warnings.append("the header says that this is a lateral view")
    return Radiograph(grey, tuple(warnings), is_dicom=True)
