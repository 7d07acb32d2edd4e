"""One line for a person who waits for a notebook: how long it has run, and the last epoch of its training."""

import csv
import sys
import threading
import time
from pathlib import Path


class LiveLine:
    """`with LiveLine(title, folder) as line:` shows title, time and epochs each second, on a terminal only.

    folder: where the notebook trains; the newest history.csv below it that changed since the start is the one shown.
    usual: the seconds it took the last time, if known. On leaving, `line.seconds` is how long it took.
    """

    def __init__(self, title: str, folder: Path, usual: float | None = None):
        self.title, self.folder, self.usual = title, folder, usual
        self._done = threading.Event()

    def __enter__(self) -> "LiveLine":
        self._began, self._since = time.perf_counter(), time.time()
        print(self.title, end=" ", flush=True)
        self._thread = threading.Thread(target=self._show, daemon=True)
        if sys.stdout.isatty():
            self._thread.start()
        return self

    def __exit__(self, kind, error, where) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
            print(f"\r\033[K{self.title}", end=" ")
        self.seconds = time.perf_counter() - self._began
        print("stopped" if kind else f"{self.seconds:.0f} s", flush=True)

    def text(self) -> str:
        """What the line says now."""
        words = [f"{self.title}  {_clock(time.perf_counter() - self._began)}"]
        if self.usual:
            words.append(f"of about {_clock(self.usual)}")
        return "  ".join(words + ([epoch] if (epoch := last_epoch(self.folder, self._since)) else []))

    def _show(self) -> None:
        while not self._done.wait(1):
            print(f"\r\033[K{self.text()}", end="", flush=True)


def last_epoch(folder: Path, since: float) -> str:
    """ "resnet18: epoch 3, validation AUROC 0.761" of the history.csv written last after `since`; "" where none was."""
    histories = {path: path.stat().st_mtime for path in folder.rglob("history.csv")}
    newest = max(histories, key=histories.get, default=None)
    if newest is None or histories[newest] < since:
        return ""
    try:
        with newest.open(encoding="utf-8", newline="") as file:
            last = list(csv.DictReader(file))[-1]
        return f"{newest.parent.name}: epoch {last['epoch']}, validation AUROC {float(last['val_auroc']):.3f}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""  # the line is a comfort: what is wrong with the file, others say


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
