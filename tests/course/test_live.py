"""The line about a running notebook: refreshed on a terminal, elsewhere one line when it is done."""

import os
import time

import pytest

from cxrlib.course.live import LiveLine, last_epoch


@pytest.fixture
def history(tmp_path):
    path = tmp_path / "resnet18" / "history.csv"
    path.parent.mkdir()
    path.write_text("epoch,val_auroc\n1,0.6\n2,0.7125\n")
    return path


def test_the_last_epoch_of_the_newest_history(history, tmp_path):
    assert last_epoch(tmp_path, 0) == "resnet18: epoch 2, validation AUROC 0.713"
    other = tmp_path / "comparison" / "vgg16" / "history.csv"
    other.parent.mkdir(parents=True)
    other.write_text("epoch,val_auroc\n1,0.5\n")
    os.utime(history, (1, 1))
    assert last_epoch(tmp_path, 0) == "vgg16: epoch 1, validation AUROC 0.500"
    assert last_epoch(tmp_path, time.time() + 60) == "", "of another run"
    assert last_epoch(tmp_path / "none", 0) == ""


@pytest.mark.parametrize("text", ["", "epoch,val_auroc\n", "epoch,val_auroc\n1,x\n", "a,b\n1,2\n", "\xff"])
def test_a_history_that_cannot_be_read_is_left_out(text, history, tmp_path):
    history.write_bytes(text.encode("latin-1"))
    assert last_epoch(tmp_path, 0) == ""


def test_without_a_terminal_it_is_one_line(tmp_path, capsys):
    with LiveLine("[1/6] 01_eda", tmp_path) as line:
        pass
    assert capsys.readouterr().out == "[1/6] 01_eda 0 s\n"
    assert 0 <= line.seconds < 5
    with pytest.raises(ValueError, match="no"), LiveLine("[2/6] 02", tmp_path):
        raise ValueError("no")
    assert capsys.readouterr().out == "[2/6] 02 stopped\n"


def test_on_a_terminal_it_shows_elapsed_and_usual_time_and_the_last_epoch(history, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with LiveLine("[3/6] 03", tmp_path, usual=100) as line:
        os.utime(history, (time.time() + 1,) * 2)
        time.sleep(1.3)
    *shown, last = (text.strip(" ") for text in capsys.readouterr().out.split("\r"))
    assert "[3/6] 03  00:01 of about 01:40, resnet18: epoch 2, validation AUROC 0.713" in [
        text.strip() for text in shown
    ]
    assert last == f"[3/6] 03 {line.seconds:.0f} s\n"
