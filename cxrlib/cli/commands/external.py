"""cxr eval --external: a model at another hospital."""

from pathlib import Path

from accelerate import Accelerator

from cxrlib.cli import processes
from cxrlib.cli.commands.opening import images_of, model_of, operating_point_of
from cxrlib.cli.options import EvalOptions
from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import write_csv, write_text
from cxrlib.course.opening import Data
from cxrlib.data.external import open_external
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.external import external, external_text
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.checkpoints import load_checkpoint
from cxrlib.training.inference import predict
from cxrlib.training.inputs import make_dataset


def run(options: EvalOptions) -> None:
    """Measure a checkpoint with its frozen operating point; writes external.csv, external.txt and the predictions."""
    checkpoint = load_checkpoint(options.weights)
    calibrator, thresholds = operating_point_of(options, checkpoint)
    if thresholds is None:
        raise InputError(f"{options.weights} has no thresholds to keep; tune them on its own hospital first (cxr eval)")
    own = Path(options.here) if options.here else Path(options.weights).with_name("predictions_test.npz")
    here = Predictions.load(own) if options.here or own.is_file() else None
    folder, csv_path = (Path(path).absolute() if path else "" for path in (options.external, options.csv_path))
    entries, paths, said = open_external(folder, csv_path, checkpoint["config"].get("weights", ""))
    seen = set(entries["image"]) & {name for part in ("train", "val") for name in checkpoint["parts"][part]}
    if seen:
        raise InputError(f"{len(seen)} images, such as {some(sorted(seen), 3)}, are named like images of the training; "
                         "expected another hospital")  # fmt: skip
    together = Accelerator(cpu=options.device == "cpu", mixed_precision="no") if processes.count() > 1 else None
    model, size = model_of(options, checkpoint), checkpoint["image_size"]
    images = images_of(options, Data(entries, paths, csv_path, folder, said), size, list(paths), options.out)
    dataset, first = make_dataset(entries, images, size), processes.is_first()
    there = predict(model, dataset, options.batch_size, together, num_workers=options.num_workers, progress=first)
    if not first:
        return
    table = external(here, there, calibrator, thresholds, resampling=Bootstrap(options.replicates))
    compared = f"no {own}; --here names another file" if here is None else f"{own}, {len(here):,} images"
    head = [f"{options.weights}: {checkpoint['arch']}, {size} pixels", f"there: {options.external}: {said}",
            f"here: {compared}", f"frozen: calibration {calibrator.method}, thresholds for {thresholds.objective}",
            "in brackets: 95 % intervals, bootstrap over patients"]  # fmt: skip
    text, out = external_text(table, head), Path(options.out)
    write_csv(out / "external.csv", table)
    write_text(out / "external.txt", text)
    there.save(out / "predictions_external.npz")
    print(f"{text}wrote {out / 'external.csv'}, external.txt and predictions_external.npz")
