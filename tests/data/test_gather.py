"""A subset is gathered whole or not at all, and reads as a data set of its own."""

import gzip
import os
import stat
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from cxrlib.cli.main import main
from cxrlib.core.errors import InputError
from cxrlib.core.paths import NOTEBOOKS
from cxrlib.course.opening import open_data
from cxrlib.data.doctor.check import check_dataset
from cxrlib.data.gather import gather
from cxrlib.data.metadata import read_boxes, read_lists

OURS = NOTEBOOKS.parent / "data" / "subsets" / "nih-mini.txt"


@pytest.mark.parametrize("link", [os.link, None])
def test_a_subset_is_a_data_set_of_its_own(link, tiny_nih, tmp_path, monkeypatch):
    if link is None:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    whole = open_data("", tiny_nih.root)
    names = sorted(whole.images)[::3]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n\n")
    out = tmp_path / "out"
    assert main(["gather", str(tiny_nih.root), str(tmp_path / "names.txt"), str(out)]) == 0
    part = open_data("", out)
    assert sorted(part.images) == names
    expected = whole.entries[whole.entries["image"].isin(names)].reset_index(drop=True)
    assert part.entries.reset_index(drop=True).equals(expected)
    assert all(part.images[name].read_bytes() == whole.images[name].read_bytes() for name in names)
    lists = read_lists(out)
    assert lists["train_val"] | lists["test"] == set(names)
    boxes = read_boxes(tiny_nih.boxes_path)
    assert len(part.boxes) == boxes["image"].isin(names).sum() > 0
    first = out / "images" / names[0]
    first.unlink()
    first.write_bytes(b"of another data set")
    gather(tiny_nih.root, names, out)  # again: nothing to do but for a file of before, nothing wrong
    assert first.read_bytes() == whole.images[names[0]].read_bytes()
    assert sorted(path.name for path in (out / "images").iterdir()) == names


def test_read_only_sources_are_gathered(tiny_nih, tmp_path, monkeypatch):
    """As root, who may write everything, a file opened for writing is told by its permissions."""
    plain = Path.open

    def refuse(path, mode="r", *arguments, **options):
        if "+" in mode and path.exists() and not path.stat().st_mode & stat.S_IWUSR:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    images = open_data("", tiny_nih.root).images
    for path in images.values():
        path.chmod(0o444)
    gather(tiny_nih.root, list(images)[:5], tmp_path / "out")
    assert list(open_data("", tmp_path / "out").images) == list(images)[:5]


@pytest.mark.parametrize("ending", [".gz", ".zip"])
def test_a_packed_csv_is_gathered_as_it_is_read(ending, tiny_nih, tmp_path):
    whole = open_data("", tiny_nih.root)
    names = sorted(whole.images)[::3]
    pack(tiny_nih.csv_path, ending)
    assert check_dataset(tiny_nih.root, progress=False).ok
    gather(tiny_nih.root, names, tmp_path / "out")
    part = open_data("", tmp_path / "out")
    assert part.csv_path.name == tiny_nih.csv_path.name, "unpacked"
    assert part.entries.equals(whole.entries[whole.entries["image"].isin(names)].reset_index(drop=True))


def pack(path, ending):
    packed = path.with_name(path.name + ending)
    if ending == ".gz":
        packed.write_bytes(gzip.compress(path.read_bytes()))
    else:
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(path, path.name)
    path.unlink()


def test_lists_and_boxes_lie_beside_the_radiographs_or_the_table(tiny_nih, tmp_path):
    table = tmp_path / tiny_nih.csv_path.name
    table.write_bytes(tiny_nih.csv_path.read_bytes())
    names = sorted(open_data("", tiny_nih.root).images)
    gather(tiny_nih.root, names, tmp_path / "out", table)
    lists = read_lists(tmp_path / "out")
    assert lists["train_val"] | lists["test"] == set(names)
    assert (tmp_path / "out" / "BBox_List_2017.csv").is_file()


def test_names_may_hold_spaces(tiny_nih, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("my chest.png\n")
    assert main(["gather", str(tiny_nih.root), str(tmp_path / "names.txt"), str(tmp_path / "out")]) == 2
    assert "(my chest.png)" in capsys.readouterr().err


def test_the_column_of_the_images_may_stand_anywhere(tiny_nih, tmp_path):
    table = pd.read_csv(tiny_nih.csv_path, dtype=str, keep_default_na=False)
    table["Image Index"] = " " + table["Image Index"]
    table[table.columns[::-1]].to_csv(tiny_nih.csv_path, index=False)
    names = sorted(open_data("", tiny_nih.root).images)[:5]
    gather(tiny_nih.root, names, tmp_path / "out")
    assert sorted(open_data("", tmp_path / "out").entries["image"]) == names


def test_an_image_without_a_row_is_refused(tiny_nih, tmp_path):
    names = sorted(open_data("", tiny_nih.root).images)
    lines = tiny_nih.csv_path.read_text().splitlines()
    tiny_nih.csv_path.write_text("\n".join(line for line in lines if names[2] not in line))
    with pytest.raises(InputError, match=rf"no row for 1 of the images \({names[2]}\)"):
        gather(tiny_nih.root, names[:5], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_part_of_a_subset_is_refused(tiny_nih, tmp_path):
    names = [*sorted(open_data("", tiny_nih.root).images)[:3], "00000013_005.png"]
    with pytest.raises(InputError, match=r"1 of 4 images are not in .*\(00000013_005.png\)"):
        gather(tiny_nih.root, names, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_table_that_it_reads_is_not_replaced(tiny_nih, tmp_path):
    table = tmp_path / "mine"
    table.write_bytes(tiny_nih.csv_path.read_bytes())
    names = sorted(open_data("", tiny_nih.root).images)[:3]
    with pytest.raises(
        InputError, match=r"mine lies in .*, where the subset's would replace it; choose another folder"
    ):
        gather(tiny_nih.root, names, tmp_path, table)
    assert table.read_bytes() == tiny_nih.csv_path.read_bytes()
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("line", ["../../x.png", "/etc/passwd", "a.png", "00000013_005.png,x", "\x00"])
def test_what_is_no_name_is_refused(line, tiny_nih, tmp_path, capsys):
    known = sorted(open_data("", tiny_nih.root).images)[0]
    (tmp_path / "names.txt").write_text(f"{known}\n{line}\n")
    for names, said in ((tmp_path / "names.txt", "expected names such as"), (tmp_path, "is not a file")):
        assert main(["gather", str(tiny_nih.root), str(names), str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_our_list_names_the_images_of_nih_mini(real):
    assert set(OURS.read_text().split()) == set(open_data("", real / "nih-mini").images)
    assert len(OURS.read_text().split()) == 3068
