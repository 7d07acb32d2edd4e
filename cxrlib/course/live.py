"""One line about a notebook that is running: elapsed and usual time, and the last epoch of its training."""

import sys
import threading
import time
from pathlib import Path

import pandas as pd
from tqdm import tqdm


class LiveLine:
    """Time a block, `with LiveLine(title, folder) as line:`; afterwards `line.seconds` is the time it took.

    On a terminal the line is refreshed every second. It shows the last epoch of the newest history.csv that was
    written below `folder` since the start, and the `usual` number of seconds, if known.
    """

    def __init__(self, title: str, folder: Path, usual: float | None = None):
        self.title, self.folder = title, folder
        about = f" of about {tqdm.format_interval(usual)}" if usual else ""
        self._format = f"{title}  {{elapsed}}{about}{{postfix}}"
        self._done = threading.Event()

    def __enter__(self) -> "LiveLine":
        self._began = time.time()
        print(self.title, end=" ", flush=True)
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.seconds = time.time() - self._began
        self._done.set()
        self._thread.join()
        print("stopped" if kind else f"{self.seconds:.0f} s", flush=True)

    def _show(self) -> None:
        if sys.stdout.isatty():
            with tqdm(bar_format=self._format, file=sys.stdout, leave=False) as line:
                while not self._done.wait(1):
                    line.set_postfix_str(last_epoch(self.folder, self._began))
            print(self.title, end=" ")


def last_epoch(folder: Path, since: float) -> str:
    """The last epoch below `folder`, as "resnet18: epoch 3, validation AUROC 0.761"; empty if older than `since`."""
    try:
        changed, newest = max((path.stat().st_mtime, path) for path in folder.rglob("history.csv"))
        last = pd.read_csv(newest).iloc[-1]
        text = f"{newest.parent.name}: epoch {last['epoch']:.0f}, validation AUROC {last['val_auroc']:.3f}"
        return text if changed >= since else ""
    except (OSError, ValueError, LookupError):
        return ""
