"""figures/05_explorer.png: the threshold explorer on phantoms, as the README shows it, out of JupyterLab.

python -m tests.browser.screenshot [--run_dir runs/quick] [--to figures/05_explorer.png]

Needs a run of notebooks 03 and 05 on phantoms, and a browser.
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path

import nbformat
from PIL import Image

from cxrlib.core.paths import ROOT
from cxrlib.data.findings import FINDINGS
from tests.browser import lab

CELL = """
from cxrlib.data.cache import build_cache
from cxrlib.evaluation.calibration import Calibrator
from cxrlib.evaluation.predictions import Predictions
from cxrlib.course.runs import RunFolder
from cxrlib.course.opening import open_data
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.widgets.threshold_explorer import ThresholdExplorer

run, data = RunFolder({run_dir!r}), open_data()
val = Predictions.load(run.predictions("efficientnet_lite0", "val"))
val = Calibrator.load(run.path / "calibration.json").apply(val)
images = build_cache(data.images, 160, val.image, progress=False)
ThresholdExplorer(val, Thresholds.load(run.thresholds), images=images, save_to="thresholds.json")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run_dir", default="runs/quick")
    parser.add_argument("--to", type=Path, default=ROOT / "figures" / "05_explorer.png")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "notebooks"
        root.mkdir()
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        cells = [nbformat.v4.new_code_cell(CELL.format(run_dir=given.run_dir))]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / "explorer.ipynb")
        with lab.jupyter_lab(root, Path(folder) / "home") as address, lab.browser(lab.chromium()) as browser:
            page = browser.new_page(viewport={"width": 1440, "height": 1400})
            lab.open_notebook(page, address, "explorer.ipynb")
            wrong = lab.restart_and_run_all(page, root / "explorer.ipynb", 200)
            if wrong:
                print("; ".join(wrong), file=sys.stderr)
                return 1
            picture = pose(page)
    # 128 colours are plenty for grey radiographs and two hues, and a quarter of the bytes
    small = Image.open(io.BytesIO(picture)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(given.to, optimize=True)
    print(f"wrote {given.to} ({given.to.stat().st_size / 1000:.0f} kB)")
    return 0


def pose(page) -> bytes:
    """Effusion at a lower threshold and at a prevalence of a screening clinic; the explorer alone, as PNG."""
    page.wait_for_selector(".cxr svg .now")
    page.locator(".cxr select").select_option(label="Effusion")
    for slider, keys in ((len(FINDINGS) + 2, ["PageDown"] * 4), (len(FINDINGS), ["PageDown"] * 2)):
        page.locator(".cxr .noUi-handle").nth(slider).focus()
        for key in keys:
            page.keyboard.press(key)
            page.wait_for_timeout(300)
    page.wait_for_timeout(1000)
    return page.locator(".cxr").screenshot()


if __name__ == "__main__":
    sys.exit(main())
