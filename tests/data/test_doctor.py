"""The doctor finds each fault that is planted, says so by name, and agrees with the readers about what stops them."""

import builtins
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrlib.core.errors import InputError
from cxrlib.data.cache import build_cache
from cxrlib.data.doctor.check import CHECKS, HARMLESS, STOPS, check_dataset, read_header
from cxrlib.data.images import read_radiograph
from cxrlib.data.metadata import find_csv, read_boxes, read_entries, read_lists, reference_entries
from cxrlib.data.sources import find_images, keep_found

LEVEL = CHECKS["level"].to_dict()
TINY = {"not 8-bit grey": 2}  # what the tiny data set has anyway, see tiny.py


def found_in(root, **options) -> dict[str, int]:
    """Counts of what was found beyond what the tiny data set has."""
    counts = check_dataset(root, progress=False, **options).found["count"].to_dict()
    return {name: count for name, count in counts.items() if TINY.get(name) != count}


def rows(data) -> list[str]:
    return data.csv_path.read_text().splitlines()


def edit(data, number: int, old: str, new: str) -> None:
    """Replace text in one line of the CSV (0 is the header)."""
    lines = rows(data)
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new, 1)
    data.csv_path.write_text("\n".join(lines) + "\n")


def field(data, number: int, place: int, new: str) -> None:
    lines = rows(data)
    values = lines[number].split(",")
    values[place] = new
    lines[number] = ",".join(values)
    data.csv_path.write_text("\n".join(lines) + "\n")


def image(data, place: int = 10) -> Path:
    return list(find_images(data.root).values())[place]


def rewrite(path: Path, change) -> None:
    change(Image.open(path).convert("L")).save(path)


def add_line(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def box(data, line: str) -> None:
    add_line(data.boxes_path, line)


def as_text(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


# check -> how to plant it; the number is what must be counted
PLANTED = {
    "no CSV": lambda d: d.csv_path.unlink(),
    "not a text file": lambda d: d.csv_path.write_bytes(gzip.compress(d.csv_path.read_bytes())[:-9]),
    "not UTF-8": lambda d: as_text(d.csv_path, lambda text: text.replace(b"No Finding", b"No Finding\xe9", 1)),
    "semicolons": lambda d: as_text(d.csv_path, lambda text: text.replace(b",", b";")),
    "column missing": lambda d: edit(d, 0, "Patient ID", "Person"),
    "no row": lambda d: d.csv_path.write_text(rows(d)[0] + "\n"),
    "row too long": lambda d: edit(d, 7, "PA" if "PA" in rows(d)[7] else "AP", "PA,extra"),
    "row too short": lambda d: d.csv_path.write_text("\n".join([*rows(d)[:-1], rows(d)[-1].rsplit(",", 3)[0]])),
    "unsafe name": lambda d: field(d, 5, 0, "../../etc/passwd"),
    "image named twice": lambda d: add_line(d.csv_path, rows(d)[5]),
    "no patient": lambda d: field(d, 5, 3, " "),
    "unknown label": lambda d: field(d, 5, 1, "Covid|Mass"),
    "patient unlike the name": lambda d: field(d, 5, 3, "4711"),
    "age out of range": lambda d: field(d, 5, 4, "414"),
    "list missing": lambda d: (d.root / "test_list.txt").unlink(),
    "list unreadable": lambda d: (d.root / "test_list.txt").write_bytes(b"\xff\xfe\0x"),
    "in both lists": lambda d: add_line(d.root / "test_list.txt", first_of(d.root / "train_val_list.txt")),
    "in neither list": lambda d: as_text(d.root / "train_val_list.txt", lambda text: text.partition(b"\n")[2]),
    "boxes unreadable": lambda d: as_text(d.boxes_path, lambda text: text.replace(b"Bbox [x", b"left")),
    "box of an unknown finding": lambda d: box(d, f"{image(d).name},Covid,1,1,9,9,,,"),
    "box without place or size": lambda d: box(d, f"{image(d).name},Mass,1,1,0,9,,,"),
    "box outside the image": lambda d: box(d, f"{image(d).name},Mass,1000,1,25,9,,,"),
    "box twice": lambda d: box(d, d.boxes_path.read_text().splitlines()[-1]),
    "box on an unknown image": lambda d: box(d, "00099999_000.png,Mass,1,1,9,9,,,"),
    "no image": lambda d: [shutil.rmtree(folder) for folder in d.root.glob("images_*")],
    "two images of one name": lambda d: shutil.copy(image(d, 3), other_folder(d, image(d)) / image(d).name),
    "cannot be decoded": lambda d: image(d).write_bytes(image(d).read_bytes()[:900]),
    "without image": lambda d: image(d).unlink(),
    "same picture twice": lambda d: shutil.copy(image(d, 10), image(d, 11)),
    "one single grey": lambda d: rewrite(image(d), lambda grey: grey.point(lambda _: 7)),
    "another size": lambda d: rewrite(image(d), lambda grey: grey.resize((80, 80))),
    "same name twice": lambda d: shutil.copy(image(d), other_folder(d, image(d))),
    "without row": lambda d: shutil.copy(image(d), image(d).with_name("new.png")),
}  # fmt: skip


def first_of(path: Path) -> str:
    return path.read_text().split()[0]


def other_folder(data, path: Path) -> Path:
    return data.root / ("images_001" if "images_002" in str(path) else "images_002") / "images"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    from tests.tiny import make_tiny_nih

    return check_dataset(make_tiny_nih(tmp_path_factory.mktemp("doctor")), deep=True, progress=False)


def test_what_is_as_nih_ships_it_changes_nothing(untouched):
    assert untouched.found["count"].to_dict() == TINY
    assert untouched.ok
    assert untouched.verdict == "nothing that would change a result"
    assert untouched.table["count"].notna().all(), "everything was looked at"
    assert untouched.facts["rows"] == untouched.facts["images"] == 63
    assert untouched.facts["folders"] == {"images_001/images": 36, "images_002/images": 27}


@pytest.mark.parametrize("check", PLANTED)
def test_each_fault_is_found_counted_and_named(check, tiny_nih, tmp_path):
    """And what the doctor says would stop the readers is what stops them."""
    PLANTED[check](tiny_nih)
    report = check_dataset(tiny_nih.root, deep=check == "one single grey", progress=False)
    assert report.names[check], report
    assert check in str(report)
    level = LEVEL[check]
    assert report.ok == (level == HARMLESS)
    others = set(report.found.index) - {check}
    stops = {name for name in others if LEVEL[name] == STOPS}
    if level == HARMLESS:
        assert all(LEVEL[name] == HARMLESS for name in others), others
    assert stops <= ({"no row", "column missing", "unknown label"} if level == STOPS else set()), others
    assert ("to fix before cxrlib can go on" in report.verdict) == (level == STOPS)
    with pytest.raises(InputError) if level == STOPS else nullcontext():
        entries = read_entries(find_csv(tiny_nih.root))
        images = find_images(tiny_nih.root)
        entries, _ = keep_found(entries, images)
        read_lists(tiny_nih.root)
        read_boxes(tiny_nih.boxes_path)
        build_cache(images, 32, entries["image"], cache_dir=tmp_path / "cache", progress=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: as_text(d.csv_path, lambda text: b"\xef\xbb\xbf" + text),
        lambda d: as_text(d.csv_path, lambda text: text.replace(b"\n", b"\r\n")),
        lambda d: field(d, 5, 6, '"PA, erect"'),
        lambda d: add_line(d.root / "test_list.txt", first_of(d.root / "test_list.txt")),
    ],
    ids=["byte order mark", "Windows line ends", "quoted comma", "listed twice"],
)
def test_what_changes_nothing_is_read_as_it_is_meant(change, tiny_nih):
    before = read_entries(tiny_nih.csv_path)
    change(tiny_nih)
    assert found_in(tiny_nih.root) == {}
    assert read_entries(tiny_nih.csv_path).drop(columns="view").equals(before.drop(columns="view"))


@pytest.mark.parametrize(
    ("mode", "kind"), [("P", "palette"), ("1", "1-bit grey"), ("RGB", "RGB"), ("LA", "grey with alpha")]
)
def test_the_kind_of_an_image_is_named(mode, kind, tiny_nih):
    rewrite(image(tiny_nih), lambda grey: grey.convert(mode))
    report = check_dataset(tiny_nih.root, progress=False)
    assert f"{image(tiny_nih).name} ({kind})" in report.names["not 8-bit grey"]
    assert report.ok


def test_patients_on_both_sides_of_a_list(tiny_nih):
    train_val, test = ((tiny_nih.root / f"{part}_list.txt").read_text().split() for part in ("train_val", "test"))
    moved = next(name for name in test if sum(other[:8] == name[:8] for other in test) > 1)
    test.remove(moved)
    (tiny_nih.root / "train_val_list.txt").write_text("\n".join([*train_val, moved]))
    (tiny_nih.root / "test_list.txt").write_text("\n".join(test))
    report = check_dataset(tiny_nih.root, progress=False)
    assert report.names["patient on both sides"] == [str(int(moved[:8]))]


def test_a_list_names_patients_whatever_zeros_the_csv_writes(tiny_nih):
    field(tiny_nih, 3, 3, "000" + rows(tiny_nih)[3].split(",")[3])
    assert found_in(tiny_nih.root) == {}


@pytest.mark.parametrize("change", [(b",", b";"), (b"Mass", b"Mass\xe9"), (b"Bbox [x", b"left")])
def test_boxes_that_the_reader_refuses_are_unreadable(change, tiny_nih):
    as_text(tiny_nih.boxes_path, lambda text: text.replace(*change))
    assert found_in(tiny_nih.root) == {"boxes unreadable": 1}
    with pytest.raises(InputError):
        read_boxes(tiny_nih.boxes_path)


def test_names_are_all_in_the_json(tiny_nih):
    gone = [path.name for path in list(find_images(tiny_nih.root).values())[3:30]]
    for name in gone:
        find_images(tiny_nih.root)[name].unlink()
    report = check_dataset(tiny_nih.root, progress=False)
    saved = json.loads(json.dumps(report.to_dict()))
    checks = {check["check"]: check for check in saved["checks"]}
    assert checks["without image"]["names"] == gone
    assert checks["without image"]["count"] == 27
    assert not saved["ok"]
    assert "and 24 more" in str(report), "people see three of them"


def test_equal_pictures_in_other_clothes_are_found_only_by_decoding(tiny_nih):
    first, second = image(tiny_nih, 20), image(tiny_nih, 21)
    Image.open(first).convert("RGB").save(second)
    assert "same picture twice" not in found_in(tiny_nih.root)
    report = check_dataset(tiny_nih.root, deep=True, progress=False)
    assert report.names["same picture twice"] == [f"{second.name} = {first.name}"]


def test_a_flipped_bit_is_found_by_decoding(tiny_nih):
    content = bytearray(image(tiny_nih).read_bytes())
    content[len(content) // 2] ^= 0x40
    image(tiny_nih).write_bytes(content)
    assert found_in(tiny_nih.root) == {}
    assert found_in(tiny_nih.root, deep=True) == {"cannot be decoded": 1}


@pytest.mark.parametrize("deep", [False, True])
def test_a_file_that_may_not_be_read_is_named_and_the_rest_looked_at(deep, tiny_nih, monkeypatch):
    """Also where the tests run as root, who may read everything."""
    locked, single = image(tiny_nih), image(tiny_nih, 12)
    rewrite(single, lambda grey: grey.resize((80, 80)))
    plain = builtins.open

    def refuse(path, *arguments, **options):
        if Path(str(path)) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    report = check_dataset(tiny_nih.root, deep=deep, progress=False)
    assert report.names["cannot be decoded"] == [f"{locked.name} (not readable)"]
    assert report.names["another size"] == [f"{single.name} (80 x 80)"]
    assert not report.ok


def test_a_folder_that_may_not_be_read_is_one_sentence(tiny_nih, monkeypatch):
    plain = os.scandir

    def refuse(folder):
        if Path(folder).name == "images":
            raise PermissionError(13, "Permission denied", str(folder))
        return plain(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    for reader in (check_dataset, find_images):
        with pytest.raises(InputError, match=r"images_001.images cannot be read \(Permission denied\)"):
            reader(tiny_nih.root)


def test_damage_in_an_image_that_no_row_names_stops_nothing(tiny_nih):
    image(tiny_nih).with_name("._00090001_000.png").write_bytes(b"\0\5\x16\7Mac OS X")
    assert found_in(tiny_nih.root) == {"without row": 1}


def test_interlaced_is_seen(tmp_path):
    (tmp_path / "a.png").write_bytes(interlaced(np.arange(64, dtype=np.uint8).reshape(8, 8)))
    assert read_header(tmp_path / "a.png").kind == "grey, interlaced"
    np.testing.assert_array_equal(read_radiograph(tmp_path / "a.png").grey, np.arange(64).reshape(8, 8))


@pytest.mark.parametrize("place", range(8, 33))
def test_a_torn_header_is_no_header(tmp_path, place):
    content = bytearray(interlaced(np.zeros((8, 8), np.uint8)))
    content[place] ^= 0x81
    (tmp_path / "a.png").write_bytes(content)
    assert read_header(tmp_path / "a.png") is None


def test_a_header_of_a_depth_that_png_has_not_is_no_header(tmp_path):
    content = bytearray(interlaced(np.zeros((8, 8), np.uint8)))
    content[24] = 5  # bits
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    assert read_header(tmp_path / "a.png") is None


def interlaced(grey: np.ndarray) -> bytes:
    """A PNG in the seven passes of Adam7, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = b"".join(
        b"\0" + line.tobytes()
        for top, left, down, right in passes
        for line in grey[top::down, left::right]
        if len(line)
    )
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_labels_of_another_release_are_named(tmp_path):
    (tmp_path / "images").mkdir()
    entries = reference_entries().head(50)
    lines = ["Image Index,Finding Labels,Patient ID"]
    lines += [f"{row.image},{row.labels},{row.patient}" for row in entries.itertuples()]
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / entries["image"][0])
    csv = tmp_path / "Data_Entry_2017.csv"
    csv.write_text("\n".join(lines))
    assert "labels of another release" not in found_in(tmp_path)
    changed = [line.replace("Cardiomegaly|Emphysema", "Emphysema|Cardiomegaly") for line in lines]
    assert changed != lines
    csv.write_text("\n".join(changed))
    assert "labels of another release" not in found_in(tmp_path), "the order of labels says nothing"
    csv.write_text("\n".join(lines).replace("Hernia", "Pneumonia", 1))
    assert found_in(tmp_path)["labels of another release"] == 1


def test_what_is_not_there_is_not_looked_at(tiny_nih):
    tiny_nih.boxes_path.unlink()
    table = check_dataset(tiny_nih.root, progress=False).table
    of_boxes = table["subject"] == "boxes"
    assert table.loc[of_boxes, "count"].isna().all()
    assert table.loc[~of_boxes, "count"].notna().all()


def test_the_command_says_it_and_exits_with_1(tiny_nih, tmp_path, capsys):
    from cxrlib.cli.main import main

    assert main(["doctor", str(tiny_nih.root)]) == 0
    assert "nothing that would change a result" in capsys.readouterr().out
    image(tiny_nih).unlink()
    assert main(["doctor", str(tiny_nih.root), "--deep", "--json", str(tmp_path / "a.json")]) == 1
    out = capsys.readouterr().out
    assert "CHANGES  without image: 1" in out
    assert "-> unpack the missing archives" in out
    assert json.loads((tmp_path / "a.json").read_text())["deep"] is True
    assert main(["doctor", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_every_check_is_planted():
    apart = {"patient on both sides", "labels of another release", "not 8-bit grey", "read with a warning"}
    assert set(PLANTED) | apart == set(LEVEL)


@pytest.mark.real
def test_the_real_ones_take_less_than_ten_seconds(real):
    began = time.process_time()
    mini = check_dataset(real / "nih-mini", progress=False)
    native = check_dataset(real / "nih-native", progress=False)
    assert time.process_time() - began < 10
    assert mini.facts["rows"] == mini.facts["images"] == 3068
    assert mini.names["same picture twice"] == ["00002658_002.png = 00002658_001.png"]
    assert mini.names["labels of another release"] == []
    assert native.ok
    assert native.facts["kinds"] == {"grey": 40, "RGBA": 9}


def test_all_of_nihs_rows_take_less_than_five_seconds(tmp_path):
    import gzip

    from cxrlib.data.metadata import REFERENCE

    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / "00000001_000.png")
    content = gzip.decompress((REFERENCE / "Data_Entry_2017_v2020.csv.gz").read_bytes())
    (tmp_path / "Data_Entry_2017_v2020.csv").write_bytes(content)
    code = (
        "import sys, time\nfrom cxrlib.data.doctor.check import check_dataset\n"
        "began = time.process_time()\nreport = check_dataset(sys.argv[1], progress=False)\n"
        "print(time.process_time() - began, len(report.names['without image']))"
    )
    # a process of its own: here the reference may have been read before
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env=os.environ
    ).stdout.split()
    assert float(said[0]) < 5
    assert said[1] == "112119"
