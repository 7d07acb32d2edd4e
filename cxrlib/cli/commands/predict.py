"""cxr predict."""

import csv
import glob
import json
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cxrlib.cli.options import PredictOptions
from cxrlib.core.errors import InputError, printable, some
from cxrlib.core.html import radiograph_uri, write_page
from cxrlib.core.paths import written_whole
from cxrlib.core.progress import bar
from cxrlib.course import report
from cxrlib.data.findings import FINDINGS
from cxrlib.data.images import is_image
from cxrlib.explain.prediction import Prediction, Predictor

_MOST = 200  # images on a page, which a browser still opens; the table has all
_SIDE = 320  # pixels of a picture
_TEMPLATE = Path(report.__file__).with_name("templates") / "predictions.html"


def predict(options: PredictOptions) -> int:
    """Predict every image, one line each; exit code 1 where one could not be read or is refused."""
    files, out = _files(options.images), Path(options.out)
    predictor = Predictor(options.weights, options.device, options.force)
    failed: list[str] = []
    # both files take their names in the end, and a folder that cannot be written is an error before the first image
    with written_whole(out / "predictions.csv") as beside, beside.open("w", newline="", encoding="utf-8") as table:
        cases = _reported(predictor, files, options, csv.writer(table), failed)
        if options.no_page:
            deque(cases, maxlen=0)
        else:
            how = {"models": predictor.names, "total": len(files), "most": _MOST}
            write_page(out / "predictions.html", _TEMPLATE, cases=_shown(cases, predictor), **how)
    about = sys.stderr if options.as_json else sys.stdout
    print(f"wrote {out / 'predictions.csv'}{'' if options.no_page else ' and predictions.html'}", file=about)
    if failed:
        print(f"{len(failed)} of {len(files):,} images are not predicted: {some(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _reported(predictor: Predictor, files: list[Path], options, table, failed: list[str]) -> Iterator[Prediction]:
    """The predictions, each also as a line on the screen and in the table."""
    table.writerow(("image", "finding", "score", "probability", "low", "high", "threshold", "call", "note", "warnings"))
    predicted = predictor.predict(files, options.batch_size, options.threads or None)
    # a bar between lines that go to a file would only be noise there
    with bar(predicted, sys.stderr.isatty(), total=len(files), desc="predict", unit=" images") as shown:
        for case in shown:
            name = printable(case.path)
            plain = {"error": case.error} if case.error else {"findings": case.rows}
            plain |= {"image": name, "warnings": case.warnings}
            shown.write(json.dumps(plain) if options.as_json else _line(case), file=sys.stdout)
            if case.error:
                failed.append(name)
                table.writerow([name, *[""] * 7, case.error, "; ".join(case.warnings)])
            else:
                table.writerows([name, *row.values(), "; ".join(case.warnings)] for row in case.rows)
            yield case


def _line(case: Prediction) -> str:
    """What is predicted positive, its probability beside its threshold; the highest where nothing is tuned."""
    if case.error:
        return "; warning: ".join([case.error, *case.warnings])
    rows = sorted(case.rows, key=lambda row: -row["probability"])
    positive = (row for row in rows if row["call"] == "positive")
    said = [f"{row['finding']} {row['probability']:.2f} (threshold {row['threshold']:.2g})" for row in positive]
    text = ", ".join(said) or "no finding reaches its threshold"
    if np.isnan(case.thresholds).all():
        highest = ", ".join(f"{row['finding']} {row['probability']:.2f}" for row in rows[:3])
        text = f"nothing is called, {case.notes[0]}; highest: {highest}"
    return "; warning: ".join([f"{printable(case.path)}: {text}", *case.warnings])


def _shown(cases: Iterator[Prediction], predictor: Predictor) -> Iterator[dict]:
    """What the page shows of the first `_MOST` cases, each made when it is predicted; all are consumed."""
    from matplotlib import colormaps

    for number, case in enumerate(cases):
        if number >= _MOST:
            continue
        shown = {"name": printable(case.path.name), "error": case.error, "maps": {}}
        if not case.error:
            grey = case.images[0]
            shown |= {"warnings": case.warnings, "picture": radiograph_uri(grey, _SIDE), "rows": case.rows}
            maps = predictor.all_maps(case) if case.positive.any() else ()
            for k in np.flatnonzero(case.positive):
                opacity = 0.6 * np.sqrt(maps[k])[..., None]
                colours = colormaps["inferno"](maps[k])[..., :3] * 255
                under = np.round(grey[..., None] * (1 - opacity) + colours * opacity).astype(np.uint8)
                shown["maps"][FINDINGS[k]] = radiograph_uri(under, _SIDE)
        yield shown


def _files(given: list[str]) -> list[Path]:
    """Files, all images under folders, and what globs match. Raises InputError where that is nothing."""
    files: list[Path] = []
    for text in given:
        if Path(text).is_dir():
            below = map(Path, glob.iglob(f"{glob.escape(text)}/**", recursive=True))  # which follows links to folders
            files += sorted(path for path in below if path.is_file() and is_image(path))
        elif glob.has_magic(text) and not Path(text).exists():
            files += sorted(path for path in map(Path, glob.glob(text, recursive=True)) if path.is_file())
        else:
            files.append(Path(text))  # where it is missing, it is named like any file that cannot be read
    if not files:
        raise InputError(f"no image found in {some(given)}; expected PNG, JPEG or DICOM files, folders or globs")
    return list(dict.fromkeys(files))
