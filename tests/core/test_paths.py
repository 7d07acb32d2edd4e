"""What a path means, where results may go, files written whole, and locks."""

import errno
import fcntl
import os
import tempfile
from pathlib import Path
from unittest.mock import Mock

import pytest

from cxrlib.core import paths
from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import check_folder, expanded, located, one_process, write_text, written_whole
from cxrlib.course.report.page import write_index
from cxrlib.course.runs import RunFolder


def test_writers_with_one_process_id_do_not_share_a_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 17)
    path = tmp_path / "a.txt"
    with written_whole(path) as first:
        first.write_text("first")
        with written_whole(path) as second:
            second.write_text("second")
            assert first.read_text() == "first"
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


# ---- what a path means -----------------------------------------------------------------------------------------------
def test_a_tilde_is_the_home_folder_and_the_rest_stays_as_it_is(monkeypatch):
    monkeypatch.setenv("HOME", "/elsewhere/me")
    given = ("~/r", "~", "./~x", "a/b", "", "/x", "imagenet", "ä\udcff")
    assert [expanded(path) for path in given] == [
        "/elsewhere/me/r",
        "/elsewhere/me",
        "./~x",
        "a/b",
        "",
        "/x",
        "imagenet",
        "ä\udcff",
    ]
    for bad in ("~nobody-here/x", "a\0b", "a" * 256, "\ud800"):
        with pytest.raises(InputError, match="cannot be a path"):
            expanded(bad)


def test_a_relative_path_counts_from_the_working_directory_but_in_jupyter_from_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located("mine") == tmp_path / "mine"
    assert located("runs/quick") == paths.ROOT / "runs" / "quick", "the notebooks' default is the project's"
    assert located("/x") == Path("/x")
    monkeypatch.chdir(paths.NOTEBOOKS)
    assert located("mine") == paths.ROOT / "mine", "the folder of the notebooks is nobody's choice"


# ---- where results may go --------------------------------------------------------------------------------------------
def test_where_nothing_can_be_written_is_said_and_nothing_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    bad = {"file": "is a file", "file/x/y": "is a file", "nowhere": "leads nowhere", "nowhere/x": "leads nowhere"}
    for name, message in bad.items():
        with pytest.raises(InputError, match=message):
            check_folder(tmp_path / name)
    if os.path.exists("/proc/self"):
        with pytest.raises(InputError, match="no place for files"):
            check_folder("/proc/cxr")
    check_folder(tmp_path / "new" / "deep")
    monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=PermissionError))  # for root, too
    with pytest.raises(InputError, match="is read-only"):
        check_folder(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"]


@pytest.mark.parametrize("inside", [(), ("figures",), ("figures", "notebooks")])
def test_no_results_among_the_committed_notebooks_and_figures(inside, tmp_path):
    project = paths.NOTEBOOKS.parent
    link = tmp_path / "link"
    link.symlink_to(project / "figures")
    for folder in (paths.NOTEBOOKS, project / "figures" / "mine", link, *([project] if inside else [])):
        with pytest.raises(InputError, match="is committed; choose another folder"):
            check_folder(folder, *inside)
    if inside:
        with pytest.raises(InputError, match="is committed"):
            RunFolder(project)


def test_a_name_that_is_not_utf_8_is_written_escaped(tmp_path):
    assert write_text(tmp_path / "a.csv", "ä\udcff.png\n").read_text(encoding="utf-8") == "ä\\udcff.png\n"
    assert some(["b\udcff\n.png"]) == "b\\udcff\\n.png"


# ---- file systems without locks --------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_the_work_goes_on_and_says_so(number, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    done = []
    with one_process(tmp_path / "lock", "training into x"):
        done.append(1)
    assert "without locks: start no second process that is training into x" in capsys.readouterr().out
    with one_process(tmp_path / "lock"):
        done.append(2)
    assert capsys.readouterr().out == ""
    run = RunFolder(tmp_path / "run")
    run.record("01_eda", seconds=1)
    write_index(tmp_path)
    assert run.stage("01_eda") == {"seconds": 1}
    assert done == [1, 2]


def test_another_error_of_a_lock_is_not_taken_for_want_of_locks(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), one_process(tmp_path / "file" / "lock"):
        pass


def test_no_module_locks_in_another_way():
    modules = [path for path in (paths.NOTEBOOKS.parent / "cxrlib").rglob("*.py") if "FileLock" in path.read_text()]
    assert [path.name for path in modules] == ["paths.py"]
