"""cxr eval --external: a model at another hospital."""

from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from cxrlib.cli import processes
from cxrlib.cli.commands.opening import images_for, models_of, operating_point_of, predictions_of
from cxrlib.cli.options import EvalOptions
from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import write_csv, write_text
from cxrlib.course.opening import Data
from cxrlib.data.external import open_external
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.calibration import Calibrator, mean_calibrated, methods_text
from cxrlib.evaluation.external import external, external_text
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.checkpoints import load_ensemble


def run(options: EvalOptions) -> None:
    """Measure models with their frozen operating point; writes external.csv, external.txt and the predictions."""
    ensemble = load_ensemble(options.weights)
    calibrators, thresholds = operating_point_of(options, ensemble)
    if thresholds is None:
        raise InputError(f"{ensemble.name} has no thresholds to keep; tune them on its own hospital first (cxr eval)")
    own = Path(options.here) if options.here else Path(options.weights[0]).with_name("predictions_test.npz")
    here = Predictions.load(own) if options.here or own.is_file() else None
    if len(calibrators) > 1 and here is not None and here.calibration != methods_text(calibrators):
        raise InputError(f"{own} holds scores of calibration {here.calibration}, not of {ensemble.name}; name the "
                         "predictions_test.npz of their cxr eval (--here)")  # fmt: skip
    folder, csv_path = (Path(path).absolute() if path else "" for path in (options.external, options.csv_path))
    for start in {member["config"].get("weights", "") for member in ensemble.members.values()}:
        entries, paths, said = open_external(folder, csv_path, start)
    seen = set(entries["image"]) & {name for names in ensemble.parts.values() for name in names}
    if seen:
        raise InputError(f"{len(seen)} images, such as {some(sorted(seen), 3)}, are named like images of the training; "
                         "expected another hospital")  # fmt: skip
    together = Accelerator(cpu=options.device == "cpu", mixed_precision="no") if processes.count() > 1 else None
    models = models_of(options, ensemble)
    caches = images_for(options, models, Data(entries, paths, csv_path, folder, said), list(paths))
    each = predictions_of(options, models, caches, entries, together)
    if not processes.is_first():
        return
    calibrator, there = calibrators[0], each[0]
    if len(models) > 1:  # their score is the mean of calibrated ones, which nothing calibrates again
        means = (here, mean_calibrated(calibrators, each), thresholds)
        calibrator = Calibrator()
        here, there, thresholds = (one and replace(one, calibration=calibrator.method) for one in means)
    table = external(here, there, calibrator, thresholds, resampling=Bootstrap(options.replicates))
    compared = f"no {own}; --here names another file" if here is None else f"{own}, {len(here):,} images"
    about = (f"{name}: {one['arch']}, {one['image_size']} pixels" for name, one in ensemble.members.items())
    head = [*about, f"there: {options.external}: {said}",
            f"here: {compared}",
            f"frozen: calibration {methods_text(calibrators)}, thresholds for {thresholds.objective}",
            "in brackets: 95 % intervals, bootstrap over patients"]  # fmt: skip
    text, out = external_text(table, head), Path(options.out)
    write_csv(out / "external.csv", table)
    write_text(out / "external.txt", text)
    there.save(out / "predictions_external.npz")
    print(f"{text}wrote {out / 'external.csv'}, external.txt and predictions_external.npz")
