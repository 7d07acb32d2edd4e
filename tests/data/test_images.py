"""Reading PNG, JPEG and DICOM: what is displayed, what is corrected and said, what is refused, what stays private."""

import io
import struct
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from cxrlib.core.errors import InputError
from cxrlib.data.cache import build_cache
from cxrlib.data.doctor.check import check_dataset
from cxrlib.data.images import BadImage, is_image, looks_inverted, read_image, read_radiograph
from cxrlib.data.sources import find_images

SECRET = "Mustermann^Erika"


def chest(side: int = 64) -> np.ndarray:
    """A crude frontal chest in [0, 1]: dark air and lungs, bright mediastinum and abdomen."""
    y, x = np.mgrid[0:side, 0:side] / (side - 1)
    body = np.where((y < 0.15) & (abs(x - 0.5) > 0.15), 0.0, 0.6)
    lungs = (abs(abs(x - 0.5) - 0.2) < 0.13) & (y > 0.2) & (y < 0.7)
    return np.where(lungs, 0.15, np.where(y >= 0.7, 1.0, np.where(abs(x - 0.5) < 0.07, 0.9, body)))


def dicom(path, values=None, preamble=True, syntax=ExplicitVRLittleEndian, **elements):
    """A DICOM file of a made patient; `elements` replace or (None) remove what is usual."""
    values = np.round(chest() * 4095).astype(np.uint16) if values is None else values
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.DigitalXRayImageStorageForPresentation, "1.2.3.4"
    data.PatientName, data.PatientID, data.PatientBirthDate = SECRET, "ID-4711", "19700101"
    data.InstitutionName, data.StudyDescription, data.PatientComments = "Klinik Nord", "Husten", "fell off a horse"
    data.Modality, data.BodyPartExamined, data.PhotometricInterpretation = "DX", "CHEST", "MONOCHROME2"
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel = 3 if values.ndim == 3 else 1
    data.BitsAllocated = data.BitsStored = values.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsAllocated - 1, int(values.dtype.kind == "i")
    data.PixelData = values.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    private = data.private_block(0x0011, "SECRETS", create=True)
    private.add_new(1, "LO", "private words")
    if preamble:
        data.save_as(path, enforce_file_format=True)
    else:
        del data.file_meta
        data.save_as(path, implicit_vr=True, little_endian=True)
    return path


@pytest.mark.parametrize(
    "empty",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": "1", "RescaleIntercept": None},
        {"WindowCenter": "2048", "WindowWidth": "4096", "VOILUTFunction": None},
        {"WindowCenter": "2048", "WindowWidth": "0"},
        {"WindowCenter": "2048", "WindowWidth": "-400"},
        {"BodyPartExamined": ["CHEST", "ABDOMEN"]},
        {"BodyPartExamined": "LUNG"},
    ],
    ids=lambda given: " ".join(given),
)
def test_elements_that_cannot_be_applied_are_passed_over(tmp_path, empty):
    found = read_radiograph(dicom(tmp_path / "a.dcm", **empty))
    assert found.warnings == ()
    assert abs(np.asarray(found.grey).astype(int) - np.round(255 * chest())).max() <= 1


def test_colour_dicom_is_asked_the_same_questions(tmp_path):
    values = np.repeat(np.round((1 - chest()) * 255).astype(np.uint8)[..., None], 3, axis=2)
    how = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    found = read_radiograph(dicom(tmp_path / "a.dcm", values, **how, ViewPosition="LL"))
    assert found.warnings == ("the header says colour, with which air is bright; inverted",
                              "the header says that this is a lateral view")  # fmt: skip
    assert abs(np.asarray(found.grey).astype(int) - np.round(255 * chest())).max() <= 1
    hand = read_radiograph(dicom(tmp_path / "b.dcm", values, **how, BodyPartExamined="HAND"))
    assert hand.warnings == ("the header names another part of the body than the chest",)
    values = np.repeat(np.round(chest() * 4095).astype(np.uint16)[..., None], 3, axis=2)
    deep = read_radiograph(dicom(tmp_path / "c.dcm", values, **how, BitsStored=12, HighBit=11))
    assert abs(np.asarray(deep.grey).astype(int) - np.round(255 * chest())).max() <= 1


def test_twelve_bits_in_sixteen_are_said_to_be_dark(tmp_path):
    Image.fromarray(np.round(chest() * 4095).astype(np.uint16)).save(tmp_path / "a.png")
    assert read_radiograph(tmp_path / "a.png").warnings == (
        "its 16-bit values use less than a sixteenth of their range; it is nearly black",
    )
    Image.fromarray(np.round(chest() * 65_535).astype(np.uint16)).save(tmp_path / "b.png")
    assert read_radiograph(tmp_path / "b.png").warnings == ()


def test_want_of_memory_says_nothing_against_the_file(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", lambda _: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(InputError, match="memory ran out") as caught:
        read_radiograph(tmp_path / "a.png")
    assert not isinstance(caught.value, BadImage)


def test_two_dicom_files_of_one_name_and_size_are_compared(tmp_path):
    for folder, values in (("images_001", chest()), ("images_002", chest() * 0.9), ("images_003", chest())):
        (tmp_path / folder).mkdir()
        dicom(tmp_path / folder / "1.dcm", np.round(values * 4095).astype(np.uint16))
    with pytest.raises(InputError, match="have the same name but differ"):
        find_images(tmp_path)
    (tmp_path / "images_002/1.dcm").unlink()
    assert list(find_images(tmp_path)) == ["1.dcm"]


def test_two_films_of_one_size_and_last_row_are_two_pictures(tmp_path):
    """As uncompressed files of one detector often have."""
    (tmp_path / "images").mkdir()
    values = np.pad(chest(), ((0, 4), (0, 0)))
    for name, each in (("a", values), ("b", values * 0.9)):
        dicom(tmp_path / "images" / f"{name}.dcm", np.round(each * 4095).astype(np.uint16))
    assert not check_dataset(tmp_path, progress=False).names["same picture twice"]


def grey(path, **options) -> np.ndarray:
    return np.asarray(read_radiograph(dicom(path, **options)).grey).astype(int)


EXPECTED = np.round(chest() * 255).astype(int)


@pytest.mark.parametrize(
    "elements",
    [
        {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096},
        {"values": np.round(chest() * 255).astype(np.uint8)},
        {"values": np.round(chest() * 65535).astype(np.uint16)},
        {"values": np.round(4095 - chest() * 4095).astype(np.uint16), "PhotometricInterpretation": "MONOCHROME1"},
        {"values": np.round(chest() * 2000 - 1000).astype(np.int16), "RescaleSlope": 2, "RescaleIntercept": 2000,
         "WindowCenter": 2000, "WindowWidth": 4000},
        {"syntax": ImplicitVRLittleEndian},
        {"preamble": False},
    ],
    ids=["12 bits", "8 bits", "16 bits", "MONOCHROME1", "rescaled", "implicit", "no preamble"],
)  # fmt: skip
def test_what_the_header_says_is_displayed(tmp_path, elements):
    found = grey(tmp_path / "a", **elements)
    assert np.abs(found - EXPECTED).max() <= 2
    assert read_radiograph(tmp_path / "a").warnings == ()


def test_the_window_clips_and_the_table_maps(tmp_path):
    narrow = grey(tmp_path / "a.dcm", WindowCenter=2000, WindowWidth=3000)
    assert np.abs(narrow - np.clip((chest() * 4095 - 500) / 3000 * 255, 0, 255)).max() <= 3
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.add_new("LUTData", "US", [65535 - value * 16 for value in range(4096)])
    mapped = grey(tmp_path / "b.dcm", VOILUTSequence=Sequence([table]), PhotometricInterpretation="MONOCHROME1")
    assert np.abs(mapped - EXPECTED).max() <= 2


def test_an_open_file_is_read_as_its_path(tmp_path):
    for path in (dicom(tmp_path / "a"), tmp_path / "a.png"):
        if path.suffix:
            Image.fromarray(EXPECTED.astype(np.uint8)).save(path)
        file = io.BytesIO(path.read_bytes())
        file.name = "given"
        np.testing.assert_array_equal(read_radiograph(file).grey, read_radiograph(path).grey)
    broken = io.BytesIO(b"no image")
    broken.name = "given"
    with pytest.raises(BadImage, match=r"^given cannot be decoded"):
        read_radiograph(broken)


def test_a_header_that_lies_is_corrected_and_said(tmp_path):
    path = dicom(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1")
    read = read_radiograph(path)
    assert read.warnings == ("the header says MONOCHROME1, with which air is bright; inverted",)
    assert np.abs(np.asarray(read.grey).astype(int) - EXPECTED).max() <= 2
    values = np.round(chest() * 4095 + 32768).astype(np.uint16)
    read = read_radiograph(dicom(tmp_path / "b.dcm", values, WindowCenter=2048, WindowWidth=4096))
    assert "hides most of the image" in read.warnings[0]
    assert np.abs(np.asarray(read.grey).astype(int) - EXPECTED).max() <= 3
    hip = read_radiograph(dicom(tmp_path / "c.dcm", 4095 - values + 32768, BodyPartExamined="HIP"))
    assert hip.warnings == ("the header names another part of the body than the chest",), "and is not inverted"


def test_lateral_views_and_colour_pictures_are_said(tmp_path):
    assert "lateral" in read_radiograph(dicom(tmp_path / "a.dcm", ViewPosition="LL")).warnings[0]
    sunset = np.zeros((40, 60, 3), np.uint8)
    sunset[..., 0] = np.linspace(0, 255, 60)
    Image.fromarray(sunset).save(tmp_path / "b.jpg")
    assert "colour" in read_radiograph(tmp_path / "b.jpg").warnings[0]
    read = read_radiograph(dicom(tmp_path / "c.dcm", sunset, PhotometricInterpretation="RGB", PlanarConfiguration=0))
    assert "colour" in read.warnings[0]
    np.testing.assert_array_equal(read.grey, Image.fromarray(sunset).convert("L"))


def test_a_file_is_known_by_its_content(tmp_path):
    picture = Image.fromarray(EXPECTED.astype(np.uint8))
    picture.save(tmp_path / "a.dcm", format="PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm", 64), EXPECTED)
    picture.save(tmp_path / "b.png", format="JPEG", quality=95)
    assert np.abs(read_image(tmp_path / "b.png", 64).astype(int) - EXPECTED).max() < 80
    dicom(tmp_path / "c.jpg")
    assert np.abs(read_image(tmp_path / "c.jpg", 64).astype(int) - EXPECTED).max() <= 2
    rotated = Image.Exif()
    rotated[0x0112] = 3  # by 180 degrees
    picture.rotate(180).save(tmp_path / "d.jpg", exif=rotated, quality=95)
    assert np.abs(read_image(tmp_path / "d.jpg", 64).astype(int) - EXPECTED).mean() < 8


def jpeg(rows: int = 64, columns: int = 64) -> bytes:
    """A JPEG of 64 x 64 pixels whose header states another size."""
    file = io.BytesIO()
    Image.fromarray(EXPECTED.astype(np.uint8)).save(file, "JPEG", quality=98)
    content = file.getvalue()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", rows, columns) + content[at + 4 :]


def compressed(path, content: bytes, **elements):
    return dicom(path, EXPECTED.astype(np.uint8), syntax=JPEGBaseline8Bit, PixelData=encapsulate([content]), **elements)


def test_a_compressed_file_is_read(tmp_path):
    assert np.abs(np.asarray(read_radiograph(compressed(tmp_path / "a.dcm", jpeg())).grey) - EXPECTED).mean() < 8


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: dicom(path, NumberOfFrames=30), "30 frames; expected one radiograph"),
        (lambda path: dicom(path, Rows=60000, Columns=60000), "60000 x 60000 pixels, more than any"),
        (lambda path: compressed(path, jpeg(40000, 40000)), "damaged or of a kind"),
        (
            lambda path: compressed(path, jpeg(40000, 40000).replace(b"\xff\xc0", b"\xff\xff\xff\xc0")),
            "damaged or of a kind",
        ),
        (lambda path: compressed(path, b"\xff\xd8\xff no JPEG"), "damaged or of a kind"),
        (lambda path: dicom(path, PixelData=b"\0\0"), "damaged or of a kind"),
        (lambda path: dicom(path, syntax=DeflatedExplicitVRLittleEndian), "deflated"),
        (lambda path: dicom(path, WindowCenter=[]), None),
        (lambda path: path.write_bytes(b"\x08\x00" + SECRET.encode()), "damaged|no pixels"),
        (lambda path: path.write_bytes(bytes(128) + b"DICM" + SECRET.encode()), "damaged|no pixels"),
    ],
)
def test_what_cannot_be_displayed_is_refused_in_a_sentence(tmp_path, make, reason):
    make(tmp_path / "a.dcm")
    if reason is None:
        assert read_image(tmp_path / "a.dcm", 32).shape == (32, 32)
        return
    with pytest.raises(BadImage, match=reason) as error:
        read_image(tmp_path / "a.dcm", 32)
    assert SECRET not in str(error.value)


def test_a_compressed_picture_that_states_another_size_is_not_unpacked(tmp_path, monkeypatch):
    unpacked = []
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda data: unpacked.append(data))
    for content in (jpeg(40000, 40000), b"\xff\x4f\xff\x51" + bytes(4) + struct.pack(">II", 40000, 40000)):
        with pytest.raises(BadImage, match="damaged or of a kind"):
            read_image(compressed(tmp_path / "a.dcm", content), 32)
    assert not unpacked


def test_padding_does_not_count_where_there_is_no_window(tmp_path):
    values = np.round(chest() * 1000 + 1000).astype(np.int16)
    values[:, :6] = -2000
    for rescaling in ({}, {"RescaleSlope": 2, "RescaleIntercept": -1024}):  # the padding is that of the stored values
        found = grey(tmp_path / "a.dcm", values=values, PixelPaddingValue=-2000, **rescaling)
        assert np.abs(found[:, 6:] - EXPECTED[:, 6:]).max() <= 2


@pytest.mark.parametrize("empty", [{"WindowWidth": None, "WindowCenter": None}, {"WindowWidth": 400},
                                   {"VOILUTSequence": Sequence([])}])  # fmt: skip
def test_an_empty_window_is_none(tmp_path, empty):
    values = np.round(chest() * 500 + 1000).astype(np.uint16)
    values[0, :2] = 0, 60000
    assert np.abs(grey(tmp_path / "a.dcm", values=values, **empty)[1:] - EXPECTED[1:]).max() <= 3


@pytest.mark.parametrize("part", ["Chest", "PORT CHEST", "TORAX", "thorax", ""])
def test_a_chest_is_called_many_things(tmp_path, part):
    path = dicom(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1", BodyPartExamined=part)
    assert read_radiograph(path).warnings == ("the header says MONOCHROME1, with which air is bright; inverted",)


def test_files_named_by_their_uid_are_found(tmp_path):
    for name in ("1.2.276.0.7230010.3.1.4.1787", "plain", "notes.v2"):
        dicom(tmp_path / name)
    (tmp_path / "1.2.3.4").write_text("no image")
    found = [path.name for path in sorted(tmp_path.iterdir()) if is_image(path)]
    assert found == ["1.2.276.0.7230010.3.1.4.1787", "plain"]


def test_without_pydicom_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    dicom(tmp_path / "a.dcm")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[dicom\]'") as error:
        read_image(tmp_path / "a.dcm", 32)
    assert not isinstance(error.value, BadImage), "the file is not to blame, and is not skipped"


def test_no_text_of_a_header_is_passed_on(tmp_path, capfd, recwarn, caplog):
    path = dicom(tmp_path / "a.dcm", Modality=SECRET, ViewPosition=SECRET, BodyPartExamined=SECRET, WindowWidth="4096")
    content = path.read_bytes().replace(b"4096", b"4o96")
    warnings.simplefilter("always")
    for each in (path.read_bytes(), content, content[:-9000]):
        path.write_bytes(each)
        try:
            shown = repr(read_radiograph(path))
        except InputError as error:
            shown = str(error)
        text = shown + "".join(capfd.readouterr()) + "".join(str(one.message) for one in recwarn) + caplog.text
        for value in (SECRET, "ID-4711", "19700101", "Klinik", "Husten", "horse", "private words", "1.2.3.4", "4o96"):
            assert value not in text


def test_a_folder_of_dicoms_with_a_csv_is_a_data_set(tmp_path):
    names = ["one", "two.dcm", "three.DCM", "four.jpg"]
    for name in names[:3]:
        dicom(tmp_path / name, PhotometricInterpretation="MONOCHROME1" if name == "one" else "MONOCHROME2")
    Image.fromarray(EXPECTED[::-1].astype(np.uint8)).save(tmp_path / "four.jpg", quality=95)
    (tmp_path / "notes").write_text("no image")
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    rows = [f"{name},Mass,0,{number},50,M,PA" for number, name in enumerate(names)]
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join([header, *rows]))
    images = find_images(tmp_path)
    assert set(images) == set(names)
    cache = build_cache(images, 32, cache_dir=tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(cache["one"], cache["two.dcm"])
    report = check_dataset(tmp_path, progress=False)
    assert report.facts["kinds"] == {"DICOM": 3, "JPEG L": 1}
    assert report.names["read with a warning"] == [
        "one (the header says MONOCHROME1, with which air is bright; inverted)"
    ]
    assert report.names["without row"] == []


def test_polarity_is_seen_upright_and_upside_down():
    picture = Image.fromarray(EXPECTED.astype(np.uint8))
    for one in (picture, picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)):
        assert not looks_inverted(one)
        assert looks_inverted(255 - np.asarray(one))
    assert not looks_inverted(np.full((50, 50), 7, np.uint8))


@pytest.mark.real
def test_polarity_on_real_radiographs(real):
    paths = {"nih": sorted((real / "nih-mini").glob("images_*/images/*.png"))[::4]}
    paths |= {name: sorted((real / "elsewhere" / name / "images").glob("*")) for name in ("jsrt", "vqa-rad")}
    for name, each in paths.items():
        pixels = [read_image(path, 64) for path in each]
        assert sum(looks_inverted(one) for one in pixels) <= 0.01 * len(each), name
        assert sum(not looks_inverted(255 - one) for one in pixels) <= 0.02 * len(each), name


@pytest.mark.real
def test_real_dicoms_have_dark_lungs_or_get_a_sentence(real):
    folder = real / "elsewhere" / "dicom"
    if not folder.is_dir():
        pytest.skip("the DICOM files of shared/elsewhere are not there")
    read = {path.name: read_radiograph(path) for path in folder.iterdir() if path.is_file() and path.suffix != ".md"}
    assert len(read) == 7
    assert not any(looks_inverted(each.grey) for each in read.values())
    assert [name for name, each in read.items() if each.warnings] == ["JPEG2KLossless_1s_1f_u_16_16.dcm"]
    assert len(read["JPEG2KLossless_1s_1f_u_16_16.dcm"].warnings) == 2, "window and polarity"
    np.testing.assert_array_equal(read["CR-MONO1-10-chest"].grey, read["gdcm-CR-MONO1-10-chest.dcm"].grey)
    with pytest.raises(BadImage, match="of a kind that no decoder reads"):
        read_image(folder / "not_chest" / "RG3_JPLY", 64)
