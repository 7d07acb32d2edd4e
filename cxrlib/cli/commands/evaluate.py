"""cxr eval."""

from pathlib import Path

import pandas as pd
from accelerate import Accelerator

from cxrlib.cli import processes
from cxrlib.cli.commands import external
from cxrlib.cli.commands.opening import data_of, held_out, images_for, models_of, predictions_of
from cxrlib.cli.options import EvalOptions
from cxrlib.core.errors import InputError
from cxrlib.core.paths import check_folder, write_csv
from cxrlib.course.opening import Data
from cxrlib.evaluation.agreement import find_expert_labels
from cxrlib.evaluation.audits import against_experts, audit
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.differences import mean_against_members
from cxrlib.evaluation.protocol import Evaluation, check_how, evaluate_at_tuned, metrics_text
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.models.checkpoints import load_ensemble


def run(options: EvalOptions) -> None:
    """Calibrate and tune on the validation images of the checkpoints, then report on their test images."""
    check_folder(options.out)
    if options.external:
        return external.run(options)
    how = check_how(options.calibrate, options.grid, options.objective)
    how["thresholds"] = Thresholds.load(options.thresholds) if options.thresholds else None
    ensemble, [path, *more] = load_ensemble(options.weights), options.weights
    if options.update_checkpoint and more:
        raise InputError(f"update_checkpoint is given with {len(options.weights)} files; make one of them first (cxr "
                         "ensemble)")  # fmt: skip
    if options.update_checkpoint:
        check_folder(Path(path).parent)
    # before the models: it gives each process a GPU of its own
    together = Accelerator(cpu=options.device == "cpu", mixed_precision="no") if processes.count() > 1 else None
    models, data = models_of(options, ensemble), data_of(options)
    val, test = held_out(options, ensemble, data)
    caches = images_for(options, models, data, [*val["image"], *test["image"]])
    val, test = (caches[0].keep_good(entries) for entries in (val, test))
    val_scores, test_scores = (predictions_of(options, models, caches, entries, together) for entries in (val, test))
    if not processes.is_first():  # every process has all scores; one tunes and writes
        return
    done = evaluate_at_tuned(val_scores, test_scores, **how, replicates=options.replicates)
    tables = Path(options.out) / "tables"
    text = metrics_text(done.table, done.thresholds, ensemble.members, val_scores[0], done.test, done.calibrators)
    if len(models) > 1:
        members = mean_against_members(done.test, test_scores, Bootstrap(options.replicates))
        write_csv(tables / "members.csv", members)
        text += f"\nmacro AUROC, 95 % intervals\n{members.to_string(float_format='{:.4f}'.format)}\n"
    done.write(tables, test_scores, text)
    if options.update_checkpoint:
        ensemble.at([one.to_dict() for one in done.calibrators], done.thresholds.to_dict()).save(path)
    print(text, end="")
    state = "now also holds thresholds and calibration" if options.update_checkpoint else "is unchanged"
    print(f"wrote {tables / 'metrics.txt'}, thresholds.json and calibration.json; {ensemble.name} {state}")
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
