"""cxr eval."""

from pathlib import Path

import pandas as pd
from accelerate import Accelerator

from cxrlib.cli import processes
from cxrlib.cli.commands import external
from cxrlib.cli.commands.opening import data_of, held_out, images_of, model_of
from cxrlib.cli.options import EvalOptions
from cxrlib.core.paths import check_folder, write_csv
from cxrlib.course.opening import Data
from cxrlib.evaluation.agreement import find_expert_labels
from cxrlib.evaluation.audits import against_experts, audit
from cxrlib.evaluation.protocol import Evaluation, check_how, evaluate_at_tuned, metrics_text
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
from cxrlib.training.inference import predict
from cxrlib.training.inputs import make_dataset


def run(options: EvalOptions) -> None:
    """Calibrate and tune on the validation images of the checkpoint, then report on its test images."""
    check_folder(options.out)
    if options.external:
        return external.run(options)
    how = check_how(options.calibrate, options.grid, options.objective)
    how["thresholds"] = Thresholds.load(options.thresholds) if options.thresholds else None
    checkpoint = load_checkpoint(options.weights)
    if options.update_checkpoint:
        check_folder(Path(options.weights).parent)
    # before the model: it gives each process a GPU of its own
    together = Accelerator(cpu=options.device == "cpu", mixed_precision="no") if processes.count() > 1 else None
    model, data = model_of(options, checkpoint), data_of(options)
    val, test = held_out(options, checkpoint, data)
    size = checkpoint["image_size"]
    images = images_of(options, data, size, [*val["image"], *test["image"]], options.out)
    val, test = images.keep_good(val), images.keep_good(test)
    val_scores, test_scores = (
        predict(
            model,
            make_dataset(entries, images, size),
            options.batch_size,
            together,
            num_workers=options.num_workers,
            progress=processes.is_first(),
        )
        for entries in (val, test)
    )
    if not processes.is_first():  # every process has all scores; one tunes and writes
        return
    done = evaluate_at_tuned(val_scores, test_scores, **how, replicates=options.replicates)
    tables = Path(options.out) / "tables"
    text = metrics_text(
        done.table, done.thresholds, options.weights, checkpoint, val_scores, done.test, done.calibrator
    )
    done.write(tables, test_scores, text)
    if options.update_checkpoint:
        write_checkpoint(options.weights, checkpoint | done.for_checkpoint)
    print(text, end="")
    state = "now also holds thresholds and calibration" if options.update_checkpoint else "is unchanged"
    print(f"wrote {tables / 'metrics.txt'}, thresholds.json and calibration.json; {options.weights} {state}")
    if options.audit:
        _write_audits(tables, done, test, data, options.replicates)


def _write_audits(folder: Path, done: Evaluation, entries: pd.DataFrame, data: Data, replicates: int) -> None:
    """audit.csv, the gaps between groups; experts.csv where expert labels (or the phantoms' truth) are at hand."""
    tables = {"audit.csv": audit(done.test, entries, done.thresholds, replicates=replicates)}
    found = find_expert_labels(*data.folders)
    if found is not None:
        tables["experts.csv"] = against_experts(done.test, found[0], replicates=replicates).reset_index()
    for name, table in tables.items():
        print(f"wrote {write_csv(folder / name, table, index=False)}")
