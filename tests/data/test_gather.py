"""A subset is gathered whole or not at all, and reads as a data set of its own."""

import os

import pytest

from cxrlib.cli.main import main
from cxrlib.core.errors import InputError
from cxrlib.core.paths import NOTEBOOKS
from cxrlib.course.opening import open_data
from cxrlib.data.gather import gather, read_names
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
    gather(tiny_nih.root, names, out)  # again: nothing to do, nothing wrong
    assert sorted(path.name for path in (out / "images").iterdir()) == names


def test_a_part_of_a_subset_is_refused(tiny_nih, tmp_path):
    names = [*sorted(open_data("", tiny_nih.root).images)[:3], "00000013_005.png"]
    with pytest.raises(InputError, match=r"1 of 4 images are not in .*\(00000013_005.png\)"):
        gather(tiny_nih.root, names, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line", ["../../x.png", "/etc/passwd", "a.png", "00000013_005.png,x", "\x00"])
def test_what_is_no_name_is_refused(line, tmp_path):
    (tmp_path / "names.txt").write_text(f"00000001_000.png\n{line}\n")
    with pytest.raises(InputError, match="expected names such as"):
        read_names(tmp_path / "names.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_names(tmp_path)


@pytest.mark.real
def test_our_list_names_the_images_of_nih_mini(real):
    assert set(read_names(OURS)) == set(open_data("", real / "nih-mini").images)
    assert len(read_names(OURS)) == 3068
