"""Where the radiographs are: every layout, the download, and what is said when nothing is found."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from cxrlib.cli.options import DownloadOptions
from cxrlib.core.errors import InputError
from cxrlib.data.sources import content_digest, describe_layout, download, find_images, keep_found

LAYOUTS = {
    "nih": [f"images_{number:03d}/images" for number in range(1, 13)],
    "nih without inner folders": ["images_001", "images_002"],
    "one folder": ["images"],
    "kaggle sample": ["sample/images"],
    "kaggle sample, nested": ["sample/sample/images"],
    "sample without images": ["sample"],
    "flat": ["."],
}


def put(root: Path, folder: str, name: str, content: bytes = b"png") -> Path:
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("folders", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_is_found(tmp_path, folders):
    names = {f"{number:08d}_000.png": folder for number, folder in enumerate(folders)}
    paths = {name: put(tmp_path, folder, name) for name, folder in names.items()}
    assert find_images(tmp_path) == paths
    assert find_images(str(tmp_path)) == paths


def test_a_folder_inside_a_layout_is_a_root_of_its_own(tmp_path):
    path = put(tmp_path, "images_001/images", "a.png")
    for root in ("images_001", "images_001/images"):
        assert find_images(tmp_path / root) == {"a.png": path}


@given(st.lists(st.integers(0, 999), min_size=1, unique=True), st.randoms())
def test_sorted_by_name_whatever_the_folder(numbers, random):
    with tempfile.TemporaryDirectory() as root:
        for number in numbers:
            put(Path(root), f"images_00{random.randint(1, 3)}/images", f"{number:08d}_000.png")
        found = find_images(root)
        assert list(found) == [f"{number:08d}_000.png" for number in sorted(numbers)]
        assert all(path.name == name and path.is_file() for name, path in found.items())


def test_other_files_and_folders_are_no_radiographs(tmp_path):
    put(tmp_path, "images", "a.PNG")
    put(tmp_path, "images", "notes.txt")
    put(tmp_path, "images/b.png", "inside.txt")
    (tmp_path / "images" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    assert list(find_images(tmp_path)) == ["a.PNG"]


def test_one_name_twice(tmp_path):
    first = put(tmp_path, "images_001/images", "a.png", b"same")
    put(tmp_path, "sample/images", "a.png", b"same")
    assert find_images(tmp_path) == {"a.png": first}
    put(tmp_path, "sample/images", "a.png", b"another")
    with pytest.raises(InputError, match="have the same name but differ"):
        find_images(tmp_path)


def test_nothing_found_says_what_was_looked_for_and_what_was_there(tmp_path):
    put(tmp_path, "scans", "a.png")
    put(tmp_path, ".", "readme.txt")
    with pytest.raises(InputError) as error:
        find_images(tmp_path)
    for part in ("images_*/images,", "sample/images,", "readme.txt, scans/", str(tmp_path), "img_root"):
        assert part in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains nothing"):
        find_images(tmp_path / "empty")
    for path in (tmp_path / "nowhere", tmp_path / "readme.txt"):
        with pytest.raises(InputError, match="is not a folder"):
            find_images(path)


def test_the_tiny_data_set_is_found(tiny_nih):
    images = find_images(tiny_nih.root)
    assert len(images) == 63
    layout = describe_layout(images, tiny_nih.root)
    assert list(layout) == ["images_001/images", "images_002/images"]
    assert sum(layout.values()) == 63


def test_what_is_left_out_is_counted_on_both_sides(tmp_path):
    entries = pd.DataFrame({"image": ["a.png", "b.png", "c.png"], "patient": [1, 1, 2]}, index=[5, 6, 7])
    images = {name: tmp_path / name for name in ("c.png", "a.png", "d.png", "e.png")}
    kept, sentence = keep_found(entries, images)
    assert kept["image"].tolist() == ["a.png", "c.png"]
    assert kept.index.tolist() == [0, 1]
    assert sentence == (
        "2 radiographs of 2 patients; 1 CSV rows without an image left out (b.png); "
        "2 images without a CSV row left out (d.png, e.png)"
    )
    assert keep_found(entries, dict.fromkeys(entries["image"]))[1] == "3 radiographs of 2 patients"
    with pytest.raises(InputError, match="csv_path and img_root should belong together"):
        keep_found(entries, {"x.png": tmp_path})


def test_a_download_is_kagglehubs(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("kagglehub.dataset_download", lambda handle: asked.append(handle) or str(tmp_path))
    assert download("data") == download() == tmp_path
    assert asked == ["nih-chest-xrays/data", "nih-chest-xrays/sample"]


def test_no_network_is_a_sentence(tmp_path):
    code = (
        "from cxrlib.core.errors import InputError\nfrom cxrlib.data.sources import download\n"
        "try:\n    download('sample')\nexcept InputError as error:\n    print('InputError:', error)\n"
    )
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}  # nothing listens on port 9
    environment = os.environ | nowhere | {name.lower(): value for name, value in nowhere.items()}
    environment |= {"KAGGLEHUB_CACHE": str(tmp_path), "HOME": str(tmp_path), "NO_PROXY": "", "no_proxy": ""}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=600)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("InputError: Kaggle's data set nih-chest-xrays/sample cannot be downloaded (")
    assert "give its folder as img_root" in run.stdout
    assert len(run.stdout.splitlines()) == 1
    assert not list(tmp_path.rglob("*.png"))


def test_an_unknown_data_set_is_refused():
    with pytest.raises(InputError, match="dataset 'full' is unknown; expected one of data, sample"):
        DownloadOptions(dataset="full")


@pytest.mark.real
def test_the_real_folders(real):
    images = find_images(real / "nih-mini")
    assert len(images) == 3_068
    assert len(describe_layout(images, real / "nih-mini")) == 12
    assert len(find_images(real / "nih-native")) == 49


class TestContentDigest:
    """What was computed from files is known by what they are, not by where they lie."""

    def test_the_same_content_elsewhere_is_the_same(self, tmp_path):
        for folder in ("here", "there"):
            put(tmp_path, folder, "a.csv", b"one")
            image = put(tmp_path, f"{folder}/images", "1.png")
            os.utime(image, ns=(5, 5))
        one, other = (
            content_digest([tmp_path / folder / "a.csv"], {"1.png": tmp_path / folder / "images/1.png"})
            for folder in ("here", "there")
        )
        assert one == other
        assert len(one) == 16

    def test_content_order_name_size_and_time_each_count(self, tmp_path):
        first, second = put(tmp_path, ".", "a.csv", b"one"), put(tmp_path, ".", "b.csv", b"two")
        images = {f"{number}.png": put(tmp_path, ".", f"{number}.png") for number in range(3)}
        digests = [content_digest([first, second], images), content_digest([second, first], images)]
        digests += [content_digest([first], images), content_digest([first, second], {"0.png": images["0.png"]})]
        assert content_digest([first, second], dict(reversed(images.items()))) == digests[0]  # images are a set
        os.utime(images["0.png"], ns=(7, 7))
        digests.append(content_digest([first, second], images))
        images["0.png"].write_bytes(b"longer")
        os.utime(images["0.png"], ns=(7, 7))
        digests.append(content_digest([first, second], images))
        images["a/0.png"] = images.pop("0.png")  # as two hospitals may name theirs
        digests.append(content_digest([first, second], images))
        first.write_bytes(b"One")  # of the same size
        digests.append(content_digest([first, second], images))
        assert len(set(digests)) == len(digests)

    def test_the_cut_between_two_files_counts(self, tmp_path):
        parts = [b"ab", b"c", b"a", b"bc"]
        paths = [put(tmp_path, ".", str(number), part) for number, part in enumerate(parts)]
        assert content_digest(paths[:2]) != content_digest(paths[2:]) != content_digest([])

    @pytest.mark.parametrize("role", ["files", "listed"])
    def test_a_missing_file_is_an_error(self, tmp_path, role):
        with pytest.raises(InputError, match=r"gone\.csv does not exist"):
            content_digest(**{"files": [], role: {tmp_path / "gone.csv": tmp_path / "gone.csv"}})
