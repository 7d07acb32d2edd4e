"""Files from strangers: refused or neutral, none of them runs, leaves its folder, or eats the memory of the machine.

Pickles and the fields of a checkpoint: test_models.py. HTML in the report: test_report_page.py.
"""

import io
import json
import os
import re
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrlib.core.errors import InputError
from cxrlib.course.notebooks import read_profile
from cxrlib.course.runner import plan_runs, run_course
from cxrlib.data.cache import build_cache
from cxrlib.data.doctor.check import check_dataset
from cxrlib.data.images import read_image
from cxrlib.data.metadata import read_boxes, read_entries
from cxrlib.data.sources import find_images
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.checkpoints import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, lines: bytes = b"") -> bytes:
    """A PNG that says to be so large, with hardly anything in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = chunk(b"IDAT", zlib.compress(lines, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + content + chunk(b"IEND", b"")


def peak() -> int:
    """The most memory this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- images ------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [100_000, 12_000, 9_000])  # Pillow stops the first, warns of the second
def test_an_image_of_ten_thousand_million_pixels_is_refused_before_it_is_unpacked(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(side, side, bytes(1 << 20)))
    before = peak()
    with pytest.raises(InputError, match=r"bomb\.png cannot be decoded .*pixels"):
        read_image(path, 224)
    assert peak() - before < 64 << 20


def test_a_bomb_among_the_images_is_one_bad_image(tiny_nih, tmp_path, capsys):
    name, path = list(find_images(tiny_nih.root).items())[5]
    path.write_bytes(png_of(100_000, 100_000))
    assert check_dataset(tiny_nih.root, deep=True, progress=False).names["cannot be decoded"] == [name]
    images = find_images(tiny_nih.root)
    with pytest.raises(InputError, match=f"1 of 63 images cannot be used: .*{name}.*on_bad_image=skip"):
        build_cache(images, 32, cache_dir=tmp_path / "cache", progress=False)
    cache = build_cache(images, 32, cache_dir=tmp_path / "cache", progress=False, on_bad_image="skip")
    assert list(cache.bad) == [name]
    assert f"1 of 63 images cannot be decoded and are left out: {name}" in capsys.readouterr().out


def test_text_in_a_png_that_unfolds_is_refused_or_ignored(tmp_path):
    note = PngInfo()
    note.add_text("Comment", "0" * (200 << 20), zip=True)
    Image.new("L", (64, 64)).save(tmp_path / "text.png", pnginfo=note)
    assert (tmp_path / "text.png").stat().st_size < 1 << 20
    before = peak()
    with pytest.raises(InputError, match=r"text\.png cannot be decoded"):
        read_image(tmp_path / "text.png", 32)
    assert peak() - before < 64 << 20


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000"])
def test_no_other_format_is_decoded_whatever_the_name_says(tmp_path, kind):
    Image.new("L", (64, 64), 9).save(tmp_path / "a.png", format=kind)
    with pytest.raises(InputError, match="it is neither PNG, JPEG nor DICOM"):
        read_image(tmp_path / "a.png", 32)


# ---- names -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["../../x.png", "/etc/passwd", "..", "a\\b.png", "C:\\x.png", "a\x1b[2Jb.png", "a\tb.png"]
)
def test_image_names_with_a_path_or_a_control_character_are_refused(tiny_nih, name):
    lines = tiny_nih.csv_path.read_text().splitlines()
    lines[4] = ",".join([name, *lines[4].split(",")[1:]])
    tiny_nih.csv_path.write_text("\n".join(lines))
    with pytest.raises(InputError, match="expected plain file names without a path") as error:
        read_entries(tiny_nih.csv_path)
    assert str(error.value).isprintable(), "nothing in it speaks to the terminal"


def test_a_box_finds_its_image_by_name_and_opens_no_path(tiny_nih):
    with tiny_nih.boxes_path.open("a") as file:
        file.write("../../../etc/passwd,Mass,1,1,9,9,,,\n")
    from cxrlib.course.opening import open_data

    assert "../../../etc/passwd" in set(read_boxes(tiny_nih.boxes_path)["image"])
    assert "../../../etc/passwd" not in set(open_data("", tiny_nih.root).boxes["image"]), "only images that are there"


def test_a_link_out_of_the_folder_is_an_image_like_any_other_and_no_folder_is_followed_beyond_the_layouts(tiny_nih):
    (tiny_nih.root / "elsewhere").mkdir()
    Image.new("L", (64, 64)).save(tiny_nih.root / "elsewhere" / "hidden.png")
    assert "hidden.png" not in find_images(tiny_nih.root)


# ---- archives ----------------------------------------------------------------------------------------------------
def test_paths_in_an_archive_lead_nowhere(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    Predictions(np.zeros((2, 14)), np.zeros((2, 14)), ["a", "b"], [1, 2]).save(inside / "good.npz")
    torch.save({"format": 1}, inside / "model.pth")
    for name, read in (("good.npz", Predictions.load), ("model.pth", load_checkpoint)):
        with zipfile.ZipFile(inside / name, "a") as archive:
            archive.writestr("../outside.txt", "evil")
            archive.writestr("/tmp/cxr-outside.txt", "evil")
        try:
            read(inside / name)
        except InputError:
            continue
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["good.npz", "inside", "model.pth"]
    assert not Path("/tmp/cxr-outside.txt").exists()


def test_an_array_that_says_to_be_larger_than_memory_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**13, 14)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("scores", "labels", "image", "patient", "findings"):
            archive.writestr(f"{name}.npy", header.getvalue())
    before = peak()
    with pytest.raises(InputError, match="cannot be read as predictions"):
        Predictions.load(tmp_path / "a.npz")
    assert peak() - before < 64 << 20


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    trace = tmp_path / "it-ran"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (trace,)

    np.savez(tmp_path / "a.npz", scores=np.array([Bomb()], dtype=object), labels=0, image=0, patient=0, findings=0)
    with pytest.raises(InputError, match="cannot be read as predictions"):
        Predictions.load(tmp_path / "a.npz")
    assert not trace.exists()


# ---- YAML --------------------------------------------------------------------------------------------------------
def test_a_profile_with_tags_runs_nothing(tmp_path):
    trace = tmp_path / "it-ran"
    for number, text in enumerate(
        (
            f"epochs: !!python/object/apply:os.system ['touch {trace}']",
            f"epochs: !!python/object/new:subprocess.check_output [['touch', '{trace}']]",
            "epochs: !!python/name:os.system",
            "epochs: !own 3",
        )
    ):
        profile = tmp_path / f"{number}.yaml"
        profile.write_text(text)
        with pytest.raises(InputError, match="is not a YAML file"):
            read_profile(profile)
        with pytest.raises(InputError, match="is not a YAML file"):
            run_course(plan_runs(str(profile)))
    assert not trace.exists()


def test_a_profile_whose_aliases_unfold_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "laughs.yaml").write_text("\n".join([*lines, "epochs: *a11"]))
    with pytest.raises(InputError, match="alias"):
        read_profile(tmp_path / "laughs.yaml")


# ---- network -----------------------------------------------------------------------------------------------------
NO_NETWORK = """
import socket, sys
def refuse(*_, **__):
    raise AssertionError("a network call that nobody asked for")
socket.socket.connect = socket.socket.connect_ex = socket.socket.bind = socket.getaddrinfo = refuse
from cxrlib.cli.main import main
data, out = sys.argv[1:]
small = ["--img_root", data, "--cache_dir", out + "/cache"]
assert main(["doctor", data, "--deep"]) == 0
assert main(["phantom", out + "/phantom", "--n_patients", "2", "--size", "64"]) == 0
assert main(["preprocess", *small, "--image_size", "32"]) == 0
assert main(["train", *small, "--arch", "efficientnet_lite0", "--image_size", "32", "--epochs", "1",
             "--split", "patient", "--run_dir", out]) == 0
assert main(["eval", *small, "--weights", out + "/model_best.pth", "--out", out, "--replicates", "10"]) == 0
assert main(["gradcam", *small, "--weights", out + "/model_best.pth", "--out", out, "--samples", "1"]) == 0
"""


def test_nothing_calls_the_network_unless_asked(tiny_nih, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, tiny_nih.root, tmp_path / "out"],
        capture_output=True,
        text=True,
        env=os.environ | {"TQDM_DISABLE": "1", "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_nothing_listens_beyond_this_machine():
    makefile = (ROOT / "Makefile").read_text()
    assert "--ip=127.0.0.1" in makefile
    files = [
        *ROOT.glob("cxrlib/**/*.py"),
        *ROOT.glob("scripts/*.py"),
        *ROOT.glob("notebooks/*.ipynb"),
        ROOT / "Makefile",
    ]
    for path in files:
        code = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(code)["cells"]
            code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert not re.search(r"0\.0\.0\.0|--ip=['\"]?\*|bind\(\(['\"]{2}", code), path
