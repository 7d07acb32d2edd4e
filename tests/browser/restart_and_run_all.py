"""Every notebook in JupyterLab in a real browser, as a person would: restart the kernel, run all, look for errors.

python -m tests.browser.restart_and_run_all [NOTEBOOK ...] [--times 2] [--timeout 900]

Works on copies, so that the committed notebooks stay as they are; the runs themselves go where the notebooks say.
Leaves with 1 where a cell failed or did not run, and names it; with 2 where there is no browser.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from cxrlib.core.paths import NOTEBOOKS
from tests.browser import lab


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/, in order")
    parser.add_argument("--times", type=int, default=1, help="how often in a row (default: 1)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds a notebook may take (default: 900)")
    given = parser.parse_args()
    executable = lab.chromium()
    if executable is None:
        print("no Chromium is installed: apt-get install chromium, or name one in CXR_CHROMIUM", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "notebooks"
        root.mkdir()
        chosen = given.notebooks or sorted(NOTEBOOKS.glob("*.ipynb"))
        copies = [Path(shutil.copy(path, root)) for path in chosen]
        with lab.jupyter_lab(root, Path(folder) / "home") as address, lab.browser(executable) as browser:
            failed = [run(browser, address, copy, given.timeout) for _ in range(given.times) for copy in copies]
    return int(any(failed))


def run(browser, address: str, path: Path, timeout: float) -> bool:
    """Whether something went wrong; says what."""
    page, start = browser.new_page(viewport={"width": 1440, "height": 1000}), time.monotonic()
    page.set_default_timeout(60_000)
    try:
        lab.open_notebook(page, address, path.name)
        wrong = lab.restart_and_run_all(page, path, timeout)
        lab.shut_down(page)
    except Exception as error:  # of the browser or the server: the next notebook is still tried
        wrong = [f"{type(error).__name__}: {error}"]
    finally:
        page.close()
    print(f"{path.name}: {'; '.join(wrong) or 'every cell ran'} ({time.monotonic() - start:.0f} s)", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
