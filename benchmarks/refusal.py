"""What a model refuses and flags: images that are no upright frontal chest radiographs, held-out ones, other hospitals.

    cxr train --img_root nih-mini --arch efficientnet_lite0 --image_size 128 --epochs 3 --run_dir runs/lite0
    python -m benchmarks.refusal runs/lite0/model_best.pth --data nih-mini --elsewhere elsewhere

One line per set: refused, flagged (predicted with a warning), and both with a 95 % interval (Wilson). Images made from
radiographs lie in a temporary folder while this runs. Nothing is chosen here: `cxrlib/training/familiarity.py` was
chosen on validation images.
"""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import skimage
import sklearn.datasets
from PIL import Image, ImageDraw, ImageOps
from scipy.stats import binomtest

from cxrlib.cli.commands.models import held_out
from cxrlib.course.opening import open_data
from cxrlib.explain.prediction import Predictor
from cxrlib.models.checkpoints import load_ensemble

EACH = 60  # test images that each kind is made from, and drawings
QUARTERS = [(0, 0), (512, 0), (0, 512), (512, 512)]
MADE = {
    "turned by 90 degrees": lambda image, n: image.rotate(90 if n % 2 else 270),
    "turned by 180 degrees": lambda image, n: image.rotate(180),
    "inverted": lambda image, n: ImageOps.invert(image),
    "a quarter": lambda image, n: image.crop((*QUARTERS[n % 4], QUARTERS[n % 4][0] + 512, QUARTERS[n % 4][1] + 512)),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", help="a checkpoint by cxr train")
    parser.add_argument("--data", required=True, help="the data set that it was trained from, images of 1024 pixels")
    parser.add_argument("--elsewhere", help="folder with dicom/not_chest, jsrt/images and vqa-rad/images")
    parser.add_argument("--part", choices=("test", "val"), default="test", help="val while something is being changed")
    options = parser.parse_args()
    predictor, models = Predictor([options.weights], "cpu"), load_ensemble([options.weights])
    data = open_data("", Path(options.data).absolute())
    held = held_out(argparse.Namespace(**vars(options), subset=0, csv_path="", img_root=""), models, data)
    names = held[options.part == "test"]["image"].to_list()
    elsewhere = Path(options.elsewhere or "nowhere")
    with tempfile.TemporaryDirectory() as folder:
        sets = {"photographs and figures": _samples(), "drawings": _drawings(Path(folder))}
        sets["other parts of the body"] = sorted((elsewhere / "dicom" / "not_chest").glob("*"))
        chosen = np.random.default_rng(0).permutation(names)[:EACH]
        for kind, change in MADE.items():
            sets[kind] = _made(Path(folder) / kind, [data.images[name] for name in chosen], change)
        counts = [_report(name, predictor, files) for name, files in sets.items()]
        _line("all of these", *np.sum(counts, axis=0))
    _report(f"held out ({options.part})", predictor, [data.images[name] for name in names])
    for name in ("jsrt/images", "vqa-rad/images", "dicom"):
        _report(name, predictor, sorted(path for path in (elsewhere / name).glob("*") if path.suffix != ".md"))


def _samples() -> list[Path]:
    folders = Path(skimage.data_dir), Path(sklearn.datasets.__file__).parent / "images"
    return sorted(path for folder in folders for path in folder.iterdir() if path.suffix in (".png", ".jpg"))


def _drawings(folder: Path) -> list[Path]:
    """Ellipses, rectangles and lines of any grey on any grey; every tenth is blank."""
    rng, paths = np.random.default_rng(0), []
    for number in range(EACH):
        image = Image.new("L", (512, 512), int(rng.integers(256)))
        pen = ImageDraw.Draw(image)
        for _ in range(rng.integers(1, 9) if number % 10 else 0):
            (left, right), (top, bottom) = np.sort(rng.integers(0, 512, (2, 2)), axis=1).tolist()
            shape = (pen.ellipse, pen.rectangle, pen.line)[rng.integers(3)]
            shape((left, top, right + 1, bottom + 1), fill=int(rng.integers(256)))
        paths.append(folder / f"drawing{number}.png")
        image.save(paths[-1])
    return paths


def _made(folder: Path, sources: list[Path], change) -> list[Path]:
    folder.mkdir()
    for number, source in enumerate(sources):
        change(Image.open(source).convert("L"), number).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def _report(name: str, predictor: Predictor, files: Iterable[Path]) -> tuple[int, int, int]:
    """Print one line; returns how many are readable, refused, flagged."""
    cases = [case for case in predictor.predict(files) if case.images]
    refused = sum(bool(case.error) for case in cases)
    flagged = sum(any(text.startswith("unlike the radiographs") for text in case.warnings) for case in cases)
    _line(name, len(cases), refused, flagged)
    return len(cases), refused, flagged


def _line(name: str, total: int, refused: int, flagged: int) -> None:
    if total:
        interval = binomtest(int(refused + flagged), int(total)).proportion_ci(method="wilson")
        share = (refused + flagged) / total
        print(f"{name:<26} {total:>5} images: {refused:>4} refused, {flagged:>4} flagged, together {share:6.1%} "
              f"[{interval.low:.1%}, {interval.high:.1%}]", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
