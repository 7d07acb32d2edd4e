"""Killed, interrupted, a full disk, a folder that cannot be written: what is left is whole, or known to be partial."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from cxrlib.core.errors import InputError
from cxrlib.core.paths import written_whole
from cxrlib.course.runs import RunFolder
from cxrlib.data import cache as cache_module
from cxrlib.data.cache import ImageCache, build_cache, read_image
from cxrlib.data.sources import find_images
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.checkpoints import write_checkpoint
from cxrlib.phantom import generate as phantom_module
from cxrlib.phantom.generate import make_phantoms
from tests.namespace import may_mount, mounted

PHANTOMS = {"n_patients": 12, "size": 64, "seed": 3, "progress": False}


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder that is no lock and nobody's remains."""
    files = (path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if ".partial-" not in str(path)}


@contextmanager
def small_disk(folder: Path, size: int):
    """A disk of `size` bytes; without the right to mount one, no test of it."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here; the tests with a limit on file sizes say the same")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # lazy: a memory map may still be open


@contextmanager
def read_only(folder: Path):
    """Make a folder read-only: for root, for whom no permission counts, by mounting it so upon itself."""
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("root writes everywhere, and nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def in_a_process(code: str, *arguments, limit: int | None = None) -> subprocess.CompletedProcess:
    """Run code in a Python of its own; limit: bytes that its largest file may have, as on a disk that is full."""
    start = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n" if limit else ""
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True
    )


# ---- one file ----------------------------------------------------------------------------------------------------
def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with written_whole(path) as beside:
            beside.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_what_is_written_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("sync"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("rename"), replace(*paths)))
    with written_whole(tmp_path / "a.txt") as beside:
        beside.write_text("whole")
    assert order == ["sync", "rename", "sync"], "the file, its name, the folder that holds the name"


def test_remains_of_the_killed_go_and_those_of_the_living_stay(tmp_path):
    old, young, other = (tmp_path / name for name in (".a.txt.17.tmp", ".a.txt.18.tmp", ".b.txt.17.tmp"))
    for path in (old, young, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (time.time() - 4000,) * 2)
    with written_whole(tmp_path / "a.txt") as beside:
        beside.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.txt.18.tmp", ".b.txt.17.tmp", "a.txt"]


def test_a_full_disk_leaves_the_old_file_and_a_sentence(tmp_path):
    with small_disk(tmp_path / "disk", 64 << 10) as disk:
        (disk / "a.txt").write_text("old")
        with (
            pytest.raises(InputError, match=r"No space left .*what was there before is unchanged: make room"),
            written_whole(disk / "a.txt") as beside,
        ):
            beside.write_bytes(b"x" * (1 << 20))
        assert {path.name: path.read_bytes() for path in disk.iterdir()} == {"a.txt": b"old"}


@pytest.mark.parametrize(
    "write",
    [
        "from cxrlib.models.checkpoints import write_checkpoint; import torch\n"
        "write_checkpoint(path, {'a': torch.zeros(10**6)})",
        "from cxrlib.evaluation.predictions import Predictions; import numpy as np; r = np.random.default_rng(0)\n"
        "Predictions(r.random((9000, 14)), np.zeros((9000, 14)), range(9000), range(9000)).save(path)",
        "from cxrlib.course.runs import RunFolder\nRunFolder(path).record('stage', long='x' * 10**6)",
        "from cxrlib.core.paths import written_whole\n"
        "with written_whole(path) as beside: beside.write_bytes(b'x' * 10**6)",
    ],
)
def test_no_writer_leaves_half_a_file(tmp_path, write):
    code = "import sys; path = sys.argv[1]\nfrom cxrlib.core.errors import InputError\ntry:\n"
    code += textwrap.indent(write, "    ") + "\nexcept InputError as error:\n    print(error)\n"
    done = in_a_process(code, tmp_path / "file", limit=20_000)
    assert "cannot be written (File too large); what was there before is unchanged" in done.stdout, done.stderr
    assert not content(tmp_path)


def test_a_read_only_folder_is_a_sentence(tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    with read_only(folder):
        for write in (
            lambda: write_checkpoint(folder / "model.pth", {"a": torch.zeros(2)}),
            lambda: Predictions(np.zeros((1, 14)), np.zeros((1, 14)), ["a"], [1]).save(folder / "p.npz"),
            lambda: RunFolder(folder / "run").record("stage", value=1),
            lambda: make_phantoms(folder / "phantom", **PHANTOMS),
        ):
            with pytest.raises(InputError, match=r"cannot be written.*(Permission denied|Read-only file|read-only)"):
                write()
    assert not list(folder.iterdir())


# ---- the cache ---------------------------------------------------------------------------------------------------
def test_a_disk_that_fills_while_caching_stops_it_and_what_is_done_stays(tiny_nih, tmp_path, monkeypatch):
    images = find_images(tiny_nih.root)
    monkeypatch.setattr(cache_module, "_BATCH", 8)
    with small_disk(tmp_path / "disk", 256 << 10) as disk:
        free = SimpleNamespace(free=1 << 30)  # another process takes the space
        monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: free)
        with pytest.raises(InputError, match=r"cannot be written .*No space left.*what is done is kept: make room"):
            build_cache(images, 64, cache_dir=disk, progress=False)
        cache = ImageCache(next(disk.glob("*-64")))
        assert 8 <= len(cache) < 63
        for name in cache.names:
            if cache._done[cache.names.get_loc(name)]:
                np.testing.assert_array_equal(cache[name], read_image(images[name], 64))
        subprocess.run(["mount", "-o", "remount,size=2m", disk], check=True)
        whole = build_cache(images, 64, cache_dir=disk, progress=False)
        assert all(np.array_equal(whole[name], read_image(path, 64)) for name, path in images.items())
        del cache, whole


def test_a_write_that_fails_at_any_batch_marks_nothing_that_is_not_there(tiny_nih, tmp_path, monkeypatch):
    images = find_images(tiny_nih.root)
    monkeypatch.setattr(cache_module, "_BATCH", 10)
    for failing in range(7):
        calls = []

        def sync(file, failing=failing, calls=calls):
            calls.append(file)
            if len(calls) == failing + 3:  # two are of cache.json and its folder
                raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", sync)
            with pytest.raises(InputError, match="Input/output error"):
                build_cache(images, 32, cache_dir=tmp_path / str(failing), progress=False)
        cache = ImageCache(next((tmp_path / str(failing)).glob("*-32")))
        assert len(cache) == 10 * failing
        cache = build_cache(images, 32, cache_dir=tmp_path / str(failing), progress=False)
        assert all(np.array_equal(cache[name], read_image(path, 32)) for name, path in images.items())


def test_a_whole_cache_is_read_where_nothing_can_be_written(tiny_nih, tmp_path):
    images = find_images(tiny_nih.root)
    folder = build_cache(images, 32, cache_dir=tmp_path / "cache", progress=False).folder
    with read_only(folder):
        assert len(build_cache(images, 32, cache_dir=tmp_path / "cache", progress=False)) == 63


def test_an_interrupt_while_caching_keeps_what_is_done(tiny_nih, tmp_path, monkeypatch):
    images, seen = find_images(tiny_nih.root), []
    monkeypatch.setattr(cache_module, "_BATCH", 4)
    monkeypatch.setattr(cache_module, "cpu_count", lambda: 1)
    read = cache_module.read_image

    def reading(path, size):
        seen.append(path)
        if len(seen) == 30:
            raise KeyboardInterrupt
        return read(path, size)

    monkeypatch.setattr(cache_module, "read_image", reading)
    with pytest.raises(KeyboardInterrupt):
        build_cache(images, 32, cache_dir=tmp_path, progress=False)
    assert len(ImageCache(next(tmp_path.glob("*-32")))) == 28
    build_cache(images, 32, cache_dir=tmp_path, progress=False)
    assert len(seen) <= 28 + 4 + 35, "only the broken batch is decoded again"


# ---- phantoms ----------------------------------------------------------------------------------------------------
DRAWER = """import sys, time
from pathlib import Path
from types import SimpleNamespace
from cxrlib.phantom import generate
write, root = generate._write_tables, Path(sys.argv[1])
def write_when_told(*of_tables):
    while not root.with_name("go").exists():
        time.sleep(0.01)
    write(*of_tables)
generate._write_tables = write_when_told
generate.make_phantoms(root, n_patients=12, size=64, seed=3, workers=2)"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return content(make_phantoms(tmp_path_factory.mktemp("drawn") / "set", **PHANTOMS))


@contextmanager
def drawing(root: Path, least: int):
    """A process that draws, once it has drawn so many; it ends when told ("go" beside its folder), or with the test."""
    process = subprocess.Popen([sys.executable, "-c", DRAWER, root], start_new_session=True)
    try:
        until = time.monotonic() + 300
        while len(list(root.parent.glob(f".{root.name}.partial-*/images_*/images/*.png"))) < least:
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.005)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_phantoms_of_a_killed_process_are_drawn_anew_and_its_remains_go(drawn, tmp_path):
    root = tmp_path / "set"
    with drawing(root, 3) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not root.exists(), "nothing half has the final name"
        assert list(tmp_path.glob(".set.partial-*"))
        assert content(make_phantoms(root, **PHANTOMS)) == drawn, "also while orphaned workers still draw"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set.lock", "set"]


def test_two_that_draw_the_same_wait_for_each_other(drawn, tmp_path, monkeypatch):
    root, said = tmp_path / "set", []

    def say(text):
        said.append(text)
        (tmp_path / "go").touch()

    monkeypatch.setattr("cxrlib.core.paths.print", say, raising=False)
    with drawing(root, 1) as process:
        assert content(make_phantoms(root, **PHANTOMS)) == drawn
        assert said == [f"another process is drawing {root}; waiting for it"]
        assert process.wait(timeout=600) == 0
    assert content(root) == drawn


def test_a_lost_worker_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_module, "_draw_visits", die)
    with pytest.raises(InputError, match="was killed, often because memory ran out; draw with fewer workers"):
        make_phantoms(tmp_path / "set", workers=2, **PHANTOMS)
    assert [path.name for path in tmp_path.iterdir()] == [".set.lock"]


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_disk_too_small_for_the_phantoms_is_a_sentence(tmp_path):
    with small_disk(tmp_path / "disk", 64 << 10) as disk:
        with pytest.raises(InputError, match=r"phantoms cannot be written to .*No space left"):
            make_phantoms(disk / "set", workers=1, **PHANTOMS)
        assert not (disk / "set").exists()


# ---- a run folder ------------------------------------------------------------------------------------------------
def test_run_json_is_whole_whenever_its_writer_is_killed(tmp_path):
    code = "import sys\nfrom cxrlib.course.runs import RunFolder\nrun = RunFolder(sys.argv[1])\n"
    code += "for number in range(10**6):\n    run.record('stage', number=number, long='x' * 20_000)"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "run"])
    path = tmp_path / "run" / "run.json"
    until = time.monotonic() + 300
    while not path.is_file():
        assert time.monotonic() < until
        time.sleep(0.01)
    for _ in range(50):
        assert json.loads(path.read_text())["stages"]["stage"]["long"] == "x" * 20_000
    process.send_signal(signal.SIGKILL)
    process.communicate()
    number = RunFolder(tmp_path / "run").stage("stage")["number"]
    RunFolder(tmp_path / "run").record("stage", number=number + 1)
    assert RunFolder(tmp_path / "run").stage("stage")["number"] == number + 1


def test_a_training_waits_for_another_in_its_folder(tiny_nih, tmp_path, monkeypatch):
    from cxrlib.cli.main import main

    (tmp_path / "run").mkdir()
    code = "import sys, time\nfrom cxrlib.core.paths import one_process\nwith one_process(sys.argv[1], ''):\n"
    code += "    print('locked', flush=True)\n    sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "run" / ".train.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    other.stdout.readline()

    def say(text):
        said.append(text)
        if "is training into" in text:
            ended.append(time.monotonic())
            other.communicate()

    def fit(*_):
        began.append(time.monotonic())
        return pd.DataFrame({"best": [True], "epoch": [1], "val_auroc": [0.5]})

    began, ended, said = [], [], []
    monkeypatch.setattr("cxrlib.cli.commands.models.loop.fit", fit)
    monkeypatch.setattr("cxrlib.core.paths.print", say, raising=False)
    given = ["train", "--img_root", tiny_nih.root, "--cache_dir", tmp_path / "cache", "--run_dir", tmp_path / "run"]
    assert main([*map(str, given), "--arch", "mobilenet_v2", "--weights", "none", "--image_size", "32"]) == 0
    assert began > ended > [0], said


# ---- an evaluation -----------------------------------------------------------------------------------------------
def test_an_evaluation_stopped_before_any_of_its_files_ends_as_if_it_had_not_been(tiny_nih, tmp_path, monkeypatch):
    from cxrlib.cli.main import main
    from cxrlib.data.metadata import read_entries
    from cxrlib.data.splits import split
    from cxrlib.models.architectures import build_model, save_checkpoint

    entries = split(read_entries(tiny_nih.csv_path), "patient")
    parts = {part: entries.loc[entries["part"] == part, "image"].tolist() for part in ("train", "val")}
    config = {"split": "patient", "seed": 0, "val_subset": 0}
    monkeypatch.chdir(tmp_path)
    fresh = save_checkpoint("fresh.pth", build_model("mobilenet_v2", "none", 32), parts=parts, config=config, epoch=1)
    given = ["eval", "--img_root", str(tiny_nih.root), "--cache_dir", str(tmp_path / "cache"), "--replicates", "10"]
    given += ["--update_checkpoint", "--weights", "model.pth", "--out"]

    def evaluated(out: str, stop: int | None) -> dict[str, bytes] | None:
        shutil.copy(fresh, "model.pth")
        replace, count = os.replace, iter(range(1000))

        def stopping(*paths):
            if next(count) == stop:
                raise KeyboardInterrupt
            replace(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopping)
            code = main([*given, out])
        assert code in (0, 130)
        return None if code else content(tmp_path / out) | {"model.pth": Path("model.pth").read_bytes()}

    whole = evaluated("whole", None)
    for stop in range(20):
        stopped = evaluated("out", stop)
        for path, there in content(tmp_path / "out").items():
            assert there == whole[path], "what has its name is whole"
        if stopped:
            break
    assert stop >= 4, "several files are written"
    assert stopped == whole


def out_of_memory():
    raise MemoryError("no room")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (die, "was ended from outside, often for want of memory; use fewer num_workers"),
        (out_of_memory, "failed (MemoryError: no room); use fewer num_workers"),
    ],
)
def test_a_process_that_reads_ahead_and_ends_is_a_sentence(end, said, tiny_nih, tmp_path, monkeypatch, capsys):
    from cxrlib.cli.main import main
    from cxrlib.data import dataset

    reading = dataset.CachedDataset._images

    def ending(self, indices):
        if torch.utils.data.get_worker_info():
            end()
        return reading(self, indices)

    monkeypatch.setattr(dataset.CachedDataset, "_images", ending)
    assert main(training_ahead(tiny_nih.root, tmp_path)) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1] == f"cxr train: a process that read ahead {said}"
    assert not [line for line in error if line.startswith("Traceback")]


def training_ahead(img_root, out):
    """The words of a short training with a process that reads ahead."""
    given = ["train", "--img_root", img_root, "--cache_dir", out / "cache", "--run_dir", out / "run", "--epochs", 1]
    given += ["--arch", "mobilenet_v2", "--weights", "none", "--image_size", 64, "--split", "patient"]
    given += ["--num_workers", 1, "--precision", "fp32", "--layout", "contiguous", "--device", "cpu"]
    return [*map(str, given)]


@pytest.mark.skipif(not may_mount(), reason="nothing can be mounted here, so /dev/shm stays as large as it is")
def test_a_small_dev_shm_is_enough(tiny_nih, tmp_path):
    """Docker gives 64 MB; a batch that did not fit was lost, and the training waited for it for ever."""
    command = [sys.executable, "-m", "cxrlib.cli", *training_ahead(tiny_nih.root, tmp_path)]
    small = mounted("mount -t tmpfs -o size=64k tmpfs /dev/shm", command)
    done = subprocess.run(small, capture_output=True, text=True, timeout=500)  # not for ever
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model_best.pth").is_file()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_disk_in_someone_elses_writer_is_a_sentence(monkeypatch, capsys, number):
    """papermill and matplotlib write by themselves."""
    from cxrlib.cli.main import main

    def full(_):
        """Write until the disk is full."""
        raise OSError(number, os.strerror(number), "runs/quick/notebooks/01_eda.ipynb")

    monkeypatch.setattr("cxrlib.cli.commands.course.run", full)
    assert main(["run"]) == 2
    said = capsys.readouterr().err
    assert "01_eda.ipynb" in said
    assert "make room, or choose another folder" in said
