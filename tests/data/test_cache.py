"""The cache: the same pixels as the PNGs whatever their mode, resumable after anything, safe for two processes."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from cxrlib.core.errors import InputError
from cxrlib.data import cache as module
from cxrlib.data.cache import ImageCache, build_cache, read_image
from cxrlib.data.dataset import CachedDataset
from cxrlib.data.metadata import read_entries
from cxrlib.data.sources import find_images

GREY = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)


@pytest.fixture
def images(tiny_nih):
    return find_images(tiny_nih.root)


@pytest.fixture
def build(images, tmp_path):
    """Build the cache of the tiny data set, quietly; keywords override."""

    def run(**changes):
        options = {"images": images, "image_size": 32, "cache_dir": tmp_path / "cache", "progress": False} | changes
        return build_cache(**options)

    return run


@pytest.fixture
def decoded(monkeypatch):
    """The names that were decoded so far."""
    names, original = [], module.read_image

    def read(path, image_size):
        names.append(Path(path).name)
        return original(path, image_size)

    monkeypatch.setattr(module, "read_image", read)
    return names


def save(path, image):
    image.save(path)
    return path


def palette(grey):
    image = Image.frombytes("P", grey.shape[::-1], (255 - grey).tobytes())
    image.putpalette([255 - index for index in range(256) for _ in "RGB"])
    return image


def with_alpha(grey):
    image = Image.fromarray(grey).convert("RGBA")
    image.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, grey.shape, dtype=np.uint8)))
    return image


MODES = {
    "L": Image.fromarray,
    "RGB": lambda grey: Image.fromarray(grey).convert("RGB"),
    "RGBA": with_alpha,
    "LA": lambda grey: with_alpha(grey).convert("LA"),
    "P": palette,
    "16 bit": lambda grey: Image.fromarray(grey.astype(np.uint16) * 257),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_as_the_grey_original(tmp_path, mode):
    path = save(tmp_path / "a.png", MODES[mode](GREY))
    with Image.open(path) as image:
        assert image.mode == {"16 bit": "I;16"}.get(mode, mode), "the PNG is what the test says"
    np.testing.assert_array_equal(read_image(path, 48), GREY)
    np.testing.assert_array_equal(read_image(path, 32), read_image(save(tmp_path / "b.png", Image.fromarray(GREY)), 32))


def test_one_bit_pixels_are_black_and_white(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(GREY > 127))
    np.testing.assert_array_equal(read_image(path, 48), np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40)])
def test_an_image_that_is_not_square_is_squeezed_as_nihs_own_were(tmp_path, height, width):
    grey = np.full((height, width), 100, np.uint8)
    grey[height // 2 :] = 200
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(grey)), 32)
    assert (pixels[:15] == 100).all()
    assert (pixels[17:] == 200).all(), "the whole image, from edge to edge"


def test_resizing_does_not_alias(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(stripes)), 32)
    assert np.abs(pixels.astype(int) - 127).max() < 30, "fine stripes become grey, not coarse stripes"


def test_left_stays_left_and_up_stays_up(tmp_path):
    grey = np.zeros((64, 64), np.uint8)
    grey[:16, :32] = 255
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(grey)), 32)
    assert (pixels[:7, :15] > 200).all()
    assert pixels.sum() == pytest.approx(pixels[:9, :17].sum())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
@given(st.sampled_from(sorted(MODES)), st.integers(0, 10_000), st.booleans())
def test_a_damaged_png_is_refused_by_name_or_reads_as_an_image(tmp_path, mode, place, cut):
    path = save(tmp_path / "damaged.png", MODES[mode](GREY))
    content = bytearray(path.read_bytes())
    place %= len(content)
    if cut:
        content = content[:place]
    else:
        content[place] ^= 0x10
    path.write_bytes(content)
    try:
        pixels = read_image(path, 48)
    except InputError as error:
        assert "damaged.png" in str(error)  # noqa: PT017 - most damages are refused, a few leave the pixels whole
    else:
        assert pixels.shape == (48, 48)
        if cut:
            np.testing.assert_array_equal(pixels, GREY)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("<html>too many requests</html>")
    with pytest.raises(InputError, match=r"a\.png cannot be decoded .* expected a whole PNG, JPEG or DICOM file"):
        read_image(tmp_path / "a.png", 32)
    with pytest.raises(InputError, match=r"b\.png does not exist"):
        read_image(tmp_path / "b.png", 32)


def test_the_cache_holds_what_the_pngs_hold(build, images):
    cache = build()
    assert len(cache) == len(images) == 63
    assert cache.images.shape == (63, 32, 32)
    assert cache.images.dtype == np.uint8
    for name, path in images.items():
        np.testing.assert_array_equal(cache[name], read_image(path, 32))
    names = ["90031_x.png", *list(images)[::-7]]
    np.testing.assert_array_equal(cache.images[cache.rows(names[1:])], [cache[name] for name in names[1:]])
    with pytest.raises(InputError, match=r"does not hold 90031_x\.png"):
        cache.rows(names)
    with pytest.raises(ValueError, match="read-only"):
        cache.images[0] = 0


def test_rgba_and_16_bit_images_are_cached_as_their_grey_twins(build, images, tiny_nih):
    from tests.tiny import RGBA, SIXTEEN_BIT

    for name in (RGBA, SIXTEEN_BIT):
        with Image.open(images[name]) as image:
            assert image.mode in ("RGBA", "I;16")
            pixels = np.asarray(image)
        grey = pixels[..., 0] if pixels.ndim == 3 else (pixels // 257).astype(np.uint8)
        twin = save(tiny_nih.root / "twin.png", Image.fromarray(grey))
        np.testing.assert_array_equal(build()[name], read_image(twin, 32))


def test_a_worker_gets_the_path_and_not_the_pixels(build, tiny_nih, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = build(image_size=256, cache_dir="cache")
    dataset = CachedDataset(read_entries(tiny_nih.csv_path), cache)
    assert len(pickle.dumps(cache)) < 1000
    assert len(pickle.dumps(dataset)) < 50_000 < cache.images.nbytes / 10
    content = pickle.dumps(dataset)
    monkeypatch.chdir("/")  # where a worker may start
    again = pickle.loads(content)
    np.testing.assert_array_equal(again.cache.images, cache.images)
    images, labels = again.__getitems__([3, 5])
    assert images.equal(dataset.__getitems__([3, 5])[0])
    assert labels.equal(dataset.labels[[3, 5]])


def test_nothing_is_decoded_twice(build, images, decoded):
    some = list(images)[::3]
    cache = build(names=some)
    assert sorted(decoded) == some
    assert len(cache) == len(some)
    missing = next(name for name in images if name not in some)
    with pytest.raises(InputError, match=f"does not hold {missing}; call build_cache"):
        cache.rows([some[0], missing])
    build()
    assert sorted(decoded) == sorted(images)
    build()
    assert len(decoded) == 63


def test_names_must_be_among_the_images(build, tmp_path):
    with pytest.raises(InputError, match=r"x\.png not among the images found"):
        build(names=["x.png"])
    assert not (tmp_path / "cache").exists()


def test_a_place_that_cannot_be_written_is_a_sentence(build, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cache_dir"):
        build(cache_dir=tmp_path / "file")


def test_an_image_that_vanished_is_named(build, images):
    name, path = next(iter(images.items()))
    path.unlink()
    with pytest.raises(InputError, match=f"{name} does not exist"):
        build()


def test_the_key_changes_with_size_content_and_names(build, images, decoded):
    folder = build().folder
    assert build(image_size=48).folder != folder
    assert build(images=dict(list(images.items())[:-1])).folder != folder
    assert build(images=dict(reversed(images.items()))).folder == folder
    name, path = next(iter(images.items()))
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(path)
    cache = build()
    assert cache.folder != folder
    assert (cache[name] == 7).all()


def test_two_images_that_change_names_change_pixels(tmp_path):
    """Two hospitals' patients may have files of one name, which are then known by their paths."""
    names = {}
    for number, patient in enumerate(("p1", "p2")):
        (tmp_path / patient).mkdir()
        names[f"{patient}/view1.png"] = tmp_path / patient / "view1.png"
        Image.fromarray(np.full((64, 64), 10 + number, np.uint8)).save(tmp_path / patient / "view1.png")
    for expected in ((10, 11), (11, 10)):
        cache = build_cache(names, 32, cache_dir=tmp_path / "cache", progress=False)
        assert tuple(cache[name][0, 0] for name in names) == expected
        for old, new in (("p1", "x"), ("p2", "p1"), ("x", "p2")):
            (tmp_path / old).rename(tmp_path / new)
    above = {f"a/{name}": path for name, path in names.items()}  # opened one folder higher
    assert set(build_cache(above, 32, cache_dir=tmp_path / "cache", progress=False).names) == set(above)


def test_another_file_of_one_name_size_and_time_is_another_image(tmp_path):
    """Films of two hospitals, uncompressed, from an archive with one date."""
    for folder, grey in (("one", 10), ("two", 200)):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "IM0001.png", Image.fromarray(np.full((64, 64), grey, np.uint8)))
        content = (tmp_path / folder / "IM0001.png").read_bytes()
        (tmp_path / folder / "IM0001.png").write_bytes(content.ljust(400, b"\0"))
        os.utime(tmp_path / folder / "IM0001.png", (1e9, 1e9))
    other = tmp_path / "one/more.png"
    save(other, Image.fromarray(np.zeros((64, 64), np.uint8)))
    first = build_cache({"IM0001.png": tmp_path / "one/IM0001.png", "more.png": other}, 32, cache_dir=tmp_path / "c")
    second = build_cache({"IM0001.png": tmp_path / "two/IM0001.png"}, 32, cache_dir=tmp_path / "c")
    assert (first["IM0001.png"] == 10).all()
    assert (second["IM0001.png"] == 200).all()


def test_a_name_may_hold_any_kind_of_line_end(tmp_path):
    names = ["a\r.png", "b\n.png", "c\r\n.png"]
    for grey, name in enumerate(names):
        save(tmp_path / name, Image.fromarray(np.full((64, 64), grey, np.uint8)))
    cache = build_cache({name: tmp_path / name for name in names}, 32, cache_dir=tmp_path / "c")
    assert [int(cache[name].mean()) for name in names] == [0, 1, 2]


def test_the_same_size_at_another_time_is_another_image(build, images):
    name, path = next(iter(images.items()))
    before = build()[name]
    size, pixels = path.stat().st_size, np.zeros((64, 64), np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    os.utime(path, ns=(0, 123))
    assert path.stat().st_size == size
    assert not np.array_equal(build()[name], before)


def test_a_corrupt_image_is_named_and_the_others_are_kept(build, images, decoded):
    names = list(images)
    whole = {name: images[name].read_bytes() for name in (names[3], names[5])}
    for name, content in whole.items():
        images[name].write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"2 of 63 images cannot be used: .*{names[3]}.*{names[5]}"):
        build()
    decoded.clear()
    good = [name for name in names if name not in whole]
    assert len(build(names=good)) == 61
    assert decoded == []
    for name, content in whole.items():
        images[name].write_bytes(content)
    cache = build()
    assert len(cache) == 63
    assert sorted(decoded) == sorted(whole), "only what was repaired is decoded"
    for name in names:
        np.testing.assert_array_equal(cache[name], read_image(images[name], 32))


def test_a_grown_source_takes_over_what_was_decoded(build, images, decoded):
    names = list(images)
    build(images={name: images[name] for name in names[:40]}, names=names[:30])
    decoded.clear()
    cache = build()
    assert sorted(decoded) == names[30:]
    for name, path in images.items():
        np.testing.assert_array_equal(cache[name], read_image(path, 32))


def test_a_half_laid_out_cache_is_laid_out_anew(build, decoded):
    folder = build().folder
    (folder / "cache.json").unlink()
    (folder / "images.npy").write_bytes(b"half")
    assert len(build()) == 63
    assert json.loads((folder / "cache.json").read_text())["image_size"] == 32


def test_too_little_space_is_refused_before_anything_is_written(build, monkeypatch, decoded):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(0, 0, 63 * 32 * 32 - 1))
    with pytest.raises(InputError, match="GB are free; make room"):
        build()
    assert decoded == []
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(0, 0, 63 * 32 * 32))
    assert len(build()) == 63


# A process of its own that builds the cache, as slowly as its third argument says.
BUILDER = textwrap.dedent("""
    import sys, time
    from cxrlib.data import cache
    from cxrlib.data.sources import find_images
    root, folder, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
    read, cache._BATCH, cache.cpu_count, count = cache.read_image, 4, lambda: 1, 0
    def slowly(path, image_size):
        global count
        count += 1
        time.sleep(pause)
        return read(path, image_size)
    cache.read_image = slowly
    built = cache.build_cache(find_images(root), 32, cache_dir=folder, progress=False)
    print("decoded", count, "filled", len(built))
""")


def start(root, folder, pause):
    arguments = [sys.executable, "-u", "-c", BUILDER, str(root), str(folder), str(pause)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until_some_are_done(folder, process, least):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if list(folder.glob("*/cache.json")) and len(ImageCache(next(folder.glob("*/cache.json")).parent)) >= least:
            return
        time.sleep(0.02)
    raise AssertionError("the process did not get so far")


def test_a_killed_process_leaves_what_it_did(build, images, tiny_nih, tmp_path, decoded):
    folder = tmp_path / "cache"
    process = start(tiny_nih.root, folder, 0.2)  # so slowly that it is far from done when it is killed
    wait_until_some_are_done(folder, process, least=8)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = len(ImageCache(next(folder.glob("*/cache.json")).parent))
    assert 8 <= before < 63
    cache = build()
    assert len(decoded) == 63 - before
    for name, path in images.items():
        np.testing.assert_array_equal(cache[name], read_image(path, 32))


def test_two_processes_at_once_share_one_work(build, images, tiny_nih, tmp_path, decoded):
    folder = tmp_path / "cache"
    processes = [start(tiny_nih.root, folder, 0.02) for _ in range(2)]
    said = []
    for process in processes:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        said.append(out)
    counts = [int(out.split("decoded")[1].split()[0]) for out in said]
    assert sorted(counts) == [0, 63], "one works, the other waits"
    assert sum("another process is filling" in out for out in said) == 1
    assert all("filled 63" in out for out in said)
    cache = build()
    assert decoded == []
    np.testing.assert_array_equal(cache.images, [read_image(path, 32) for path in images.values()])


@pytest.mark.real
def test_the_native_radiographs(real, tmp_path):
    images = find_images(real / "nih-native")
    modes = []
    for path in images.values():
        with Image.open(path) as image:
            modes.append(image.mode)
    assert modes.count("RGBA") == 9
    some = {name: path for (name, path), mode in zip(images.items(), modes, strict=True) if mode == "RGBA"}
    cache = build_cache(some, 224, cache_dir=tmp_path, progress=False)
    for name, path in some.items():
        with Image.open(path) as image:
            red = Image.fromarray(np.asarray(image)[..., 0]).resize((224, 224), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(cache[name], np.asarray(red))


# ---- images that cannot be decoded ---------------------------------------------------------------------------------
@pytest.fixture
def spoiled(images):
    """Two of the images cut in half: their names."""
    names = [list(images)[3], list(images)[40]]
    for name in names:
        images[name].write_bytes(images[name].read_bytes()[:300])
    return names


def test_skip_leaves_the_same_images_out_everywhere(build, images, spoiled, tiny_nih, decoded, capsys):
    cache = build(on_bad_image="skip")
    assert list(cache.bad) == spoiled
    assert f"2 of 63 images cannot be decoded and are left out: {', '.join(spoiled)}" in capsys.readouterr().out
    entries = read_entries(tiny_nih.csv_path)
    dataset = CachedDataset(entries, cache)
    assert len(dataset) == len(cache) == 61
    assert not set(dataset.entries["image"]) & set(spoiled)
    assert len(dataset.labels) == 61
    assert cache.keep_good(entries)["image"].tolist() == dataset.entries["image"].tolist()
    decoded.clear()
    assert list(build(on_bad_image="skip").bad) == spoiled
    assert decoded == [], "what cannot be decoded is not tried again"
    with pytest.raises(InputError, match=r"2 of 63 images cannot be used: .*on_bad_image=skip"):
        build()
    with pytest.raises(InputError, match="does not hold"):
        cache.rows(spoiled)


def test_where_no_image_is_left_there_is_nothing_to_skip(build, images):
    for path in list(images.values())[:2]:
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"2 of 2 images cannot be used: .*where others remain"):
        build(names=list(images)[:2], on_bad_image="skip")


def test_skip_where_nothing_is_wrong_is_as_error(build, capsys):
    np.testing.assert_array_equal(build(on_bad_image="skip").images, build().images)
    assert "left out" not in capsys.readouterr().out


def test_a_disk_that_errs_is_no_bad_image(build, images, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("cxrlib.data.images.Image.open", fail)
    with pytest.raises(InputError, match=r"cannot be read \(Input/output error\)"):
        build(on_bad_image="skip")
