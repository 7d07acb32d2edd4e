"""What each command of `cxr` does, from its parsed arguments; `cli` holds the flags.

What is heavy is imported by the command that needs it, so that --help answers at once.
"""

import argparse
import os
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

from cxrlib.cli import processes
from cxrlib.core.errors import InputError


def run(given: argparse.Namespace) -> None:
    """The six notebooks, headless, into one run folder; what has finished is not run again."""
    from cxrlib.course.runner import describe, plan_runs, run_course

    if given.dry_run:
        plans = plan_runs(given.profile, given.parameter, given.data)
        print("\n".join(map(describe, plans)))
        print("every name and type fits the notebooks; data, device and weights were not looked at")
    else:
        run_course(given.profile, given.parameter, given.data, given.force)


def report(given: argparse.Namespace) -> None:
    """The report of a run as one HTML file that opens offline, and as PDF where a browser is installed."""
    from cxrlib.course.report.index import write_index
    from cxrlib.course.report.page import write_report
    from cxrlib.course.runs import RunFolder

    run = RunFolder(Path(given.run_dir).absolute())
    for path in write_report(run):
        print(f"wrote {path}")
    if (run.path.parent / "index.html").exists():
        write_index(run.path.parent)  # which links to it from now on


def train(given: argparse.Namespace) -> None:
    """Train on part train, choose the epoch on part val: model_best.pth, model_last.pth, history.csv in run_dir."""
    from cxrlib.core.paths import one_process
    from cxrlib.data.splits import split, subsets
    from cxrlib.training.device import pick_device
    from cxrlib.training.inputs import parts_to_remember
    from cxrlib.training.loop import TrainConfig, fit

    values = {field.name: getattr(given, field.name) for field in fields(TrainConfig) if hasattr(given, field.name)}
    config = TrainConfig.of(**values)
    _can_write(given.run_dir)
    pick_device(config.device)
    data = _open(given)
    entries = split(data.entries, config.split, config.seed, lists_in=data.folders)
    _check_model(config)
    parts_to_remember(config, entries)  # a start that learned from what is held out: likewise before decoding
    used = subsets(entries[entries["part"] != "test"], config.train_subset, config.val_subset, seed=config.seed)
    images = _images(given, data, config.image_size, used["image"])
    Path(given.run_dir).mkdir(parents=True, exist_ok=True)
    alone = one_process(Path(given.run_dir) / ".train.lock", f"training into {given.run_dir}")
    with alone if processes.is_first() else nullcontext():  # the processes of one training share it
        history = fit(config, entries, images, given.run_dir)
    kept = history[history["best"]].iloc[-1]
    print(f"kept epoch {kept['epoch']:.0f}: validation macro AUROC {kept['val_auroc']:.4f}")
    print(f"wrote {Path(given.run_dir) / 'model_best.pth'} and model_last.pth beside it")


def compare(given: argparse.Namespace) -> None:
    """Train several architectures on one budget, each with several seeds; who is better, and at what cost.

    What has been trained in run_dir is not trained again.
    """
    from cxrlib.data.splits import split, subset
    from cxrlib.training.comparison import entrants, parse_budget
    from cxrlib.training.config import TrainConfig
    from cxrlib.training.device import pick_device

    seeds, sizes = (_whole_numbers(name, getattr(given, name)) for name in ("seeds", "sizes"))
    parse_budget(given.budget)
    values = {field.name: getattr(given, field.name) for field in fields(TrainConfig) if hasattr(given, field.name)}
    each = entrants([name.strip() for name in given.archs.split(",") if name.strip()], TrainConfig.of(**values))
    _can_write(given.run_dir)
    pick_device(given.device)
    for config in each.values():
        _check_model(config)
    data = _open(given)
    entries = split(data.entries, given.split, given.seed, lists_in=data.folders)
    test = subset(entries, "test", given.subset, given.seed)
    _compare(given, each, seeds, sizes, entries, test, data)


def _compare(given: argparse.Namespace, each, seeds, sizes, entries, test, data) -> None:
    """Measure the costs, train all, and write the tables and figures of the comparison to run_dir."""
    from dataclasses import replace

    import pandas as pd

    from cxrlib.core.paths import write_csv
    from cxrlib.data.splits import subset
    from cxrlib.plots import comparison as plots
    from cxrlib.plots.style import save_figure
    from cxrlib.training import comparison

    out = Path(given.run_dir)
    costs = comparison.kept_costs(each, out / "costs.json")
    train, val = ((entries["part"] == part).sum() for part in ("train", "val"))
    each = comparison.with_budget(each, given.budget, train, val, costs)
    most = [max((replace(config, train_subset=size) for size in (config.train_subset, *sizes)),
                key=lambda one: one.train_subset or train) for config in each.values()]  # fmt: skip
    used = {name for config in most for seed in seeds
            for part, size in (("train", config.train_subset), ("val", config.val_subset))
            for name in subset(entries, part, size, seed)["image"]}  # fmt: skip
    images = _images(given, data, given.image_size, sorted(used | set(test["image"])))
    results = comparison.compare(each, seeds, entries, images, test, out)
    table = comparison.comparison_table(results)
    table = table.assign(minutes=comparison.minutes(out, each, seeds)).join(costs)
    differences = comparison.all_differences(results)
    tables = {"comparison": table, "comparison_differences": differences.set_index(["a", "b"])}
    figures = {"04_accuracy_cost": plots.plot_costs(table), "04_differences": plots.plot_differences(differences)}
    if sizes:
        folder = out / "sizes"
        curves = {
            name: comparison.learning_curve(
                config, sizes, seeds, entries, images, test, folder / name.replace(":", "-")
            )
            for name, config in each.items()
        }
        tables["learning_curves"] = pd.concat(curves, names=["arch"])
        figures["04_learning_curves"] = plots.plot_learning_curves(curves)
    for name, content in tables.items():
        write_csv(out / f"{name}.csv", content)
    for name, figure in figures.items():
        save_figure(figure, name, out / "figures")
    print("\n\n".join(content.round(3).to_string() for content in tables.values()) + f"\nwrote them to {out}")


def evaluate(given: argparse.Namespace) -> None:
    """Calibrate and tune on the validation part of the checkpoint, report on test, which neither of them saw."""
    from accelerate import Accelerator

    from cxrlib.evaluation.protocol import check_how, evaluate_at_tuned
    from cxrlib.evaluation.text import metrics_text
    from cxrlib.evaluation.thresholds import Thresholds
    from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
    from cxrlib.training.inference import predict
    from cxrlib.training.inputs import make_dataset

    _at_least(given, batch_size=1, num_workers=0, replicates=0, subset=0)
    _can_write(given.out)
    how = check_how(given.calibrate, given.grid, given.objective)
    how["thresholds"] = Thresholds.load(given.thresholds) if given.thresholds else None
    checkpoint = load_checkpoint(given.weights)
    _can_write(Path(given.weights).parent)  # the checkpoint gets the thresholds
    # before the model: it gives each process a GPU of its own
    together = Accelerator(cpu=given.device == "cpu", mixed_precision="no") if processes.count() > 1 else None
    model = _model(given, checkpoint)
    data = _open(given)
    val, test = _held_out(given, checkpoint, data)
    size = checkpoint["image_size"]
    images = _images(given, data, size, [*val["image"], *test["image"]])
    val, test = images.keep_good(val), images.keep_good(test)
    of = {
        part: predict(model, make_dataset(entries, images, size), given.batch_size, together,
                      num_workers=given.num_workers, progress=processes.is_first())
        for part, entries in (("val", val), ("test", test))
    }  # fmt: skip
    if not processes.is_first():  # every process has all scores; one tunes and writes
        return
    done = evaluate_at_tuned(of["val"], of["test"], **how, replicates=given.replicates)
    tables = Path(given.out) / "tables"
    text = metrics_text(done.table, done.thresholds, given.weights, checkpoint, of["val"], done.test, done.calibrator)
    done.write(tables, of["test"], text)
    write_checkpoint(given.weights, checkpoint | done.for_checkpoint)
    print(text, end="")
    print(f"wrote {tables / 'metrics.txt'}; thresholds and calibration are now also in {given.weights}")
    if given.audit:
        _write_audits(tables, done, test, data, given.replicates)


def _write_audits(folder: Path, done, entries, data, replicates: int) -> None:
    """audit.csv, the gaps between groups; experts.csv where expert labels (or the phantoms' truth) are at hand."""
    from cxrlib.core.paths import write_csv
    from cxrlib.evaluation.agreement import find_expert_labels
    from cxrlib.evaluation.audits import GROUPS, against_experts, audit

    present = [name for name in GROUPS if name in entries]
    tables = {"audit.csv": audit(done.test, entries, done.thresholds, present, replicates=replicates)}
    found = find_expert_labels(*data.folders)
    if found is not None:
        tables["experts.csv"] = against_experts(done.test, found[0], replicates=replicates).reset_index()
    for name, table in tables.items():
        print(f"wrote {write_csv(folder / name, table, index=False)}")


def gradcam(given: argparse.Namespace) -> None:
    """Overlays of the heat map of one labelled finding each, on radiographs of the test part; with --boxes, a score."""
    from cxrlib.evaluation.calibration import operating_point
    from cxrlib.explain.gradcam import check_method
    from cxrlib.explain.overlays import choose, highest_labelled, overlay_maps, score_table
    from cxrlib.models.checkpoints import load_checkpoint
    from cxrlib.plots.overlays import write_overlays
    from cxrlib.training.inference import predict
    from cxrlib.training.inputs import make_dataset

    _at_least(given, samples=1, batch_size=1, num_workers=0, subset=0, replicates=0)
    check_method(given.method)
    _can_write(given.out)
    checkpoint, folder = load_checkpoint(given.weights), Path(given.out) / "gradcam"
    calibrator, thresholds = operating_point(checkpoint)
    model, data = _model(given, checkpoint), _open(given)
    _, test = _held_out(given, checkpoint, data)
    chosen = choose(test, given.samples, checkpoint["config"]["seed"])
    if len(chosen) < given.samples:
        print(f"the test part holds {len(chosen)} images, fewer than the {given.samples} samples asked for")
    images = _images(given, data, model.image_size, list(chosen["image"]))
    dataset = make_dataset(chosen, images, images.image_size)
    predictions = calibrator.apply(predict(model, dataset, given.batch_size, num_workers=given.num_workers))
    table = score_table(predictions, highest_labelled(predictions), thresholds)
    paths = write_overlays(folder, overlay_maps(model, images, table, given.method), table, images, data.boxes)
    print(f"wrote {len(paths)} overlays, a contact sheet and scores.csv to {folder}")
    if given.boxes:
        _localize(given, model, data, test, folder)


def _localize(given: argparse.Namespace, model, data, test, folder: Path) -> None:
    """Score the maps of all boxed images of the test part and print the pointing game."""
    from cxrlib.explain.case_maps import localize
    from cxrlib.explain.localization import box_cases, interval_table

    if data.boxes is None:
        raise InputError(f"{given.img_root} holds no BBox_List_2017.csv; put NIH's list there to score against boxes")
    cases = box_cases(data.boxes, test)
    images = _images(given, data, model.image_size, list(cases["image"].unique()))
    table = localize(model, images, cases, given.method, given.replicates, batch_size=given.batch_size, progress=True)
    table.to_csv(folder / "localization.csv", index=False)
    print(f"pointing game, {given.method}, 95 % intervals over patients\n{interval_table(table).to_string()}")
    print(f"wrote {folder / 'localization.csv'}, which has energy, IoU and IoBB besides")


def preprocess(given: argparse.Namespace) -> None:
    """Decode and resize every radiograph of the CSV once, into the cache."""
    data = _open(given)
    cache = _images(given, data, given.image_size, list(data.entries["image"]))
    print(f"{len(cache):,} radiographs at {cache.image_size} pixels in {cache.folder}")


def doctor(given: argparse.Namespace) -> int:
    """What is wrong with a data set, counted and named; exit code 1 where something would change a result."""
    from cxrlib.data.doctor.check import check_dataset

    report = check_dataset(given.img_root, given.csv_path, given.deep)
    print(report)
    if given.json:
        _can_write(Path(given.json).parent)
        print(f"wrote {report.save(given.json)}")
    return 0 if report.ok else 1


def fetch(given: argparse.Namespace) -> None:
    """Download a data set through kagglehub and say where it lies."""
    from cxrlib.data.sources import download

    print(download(given.dataset))


def gather(given: argparse.Namespace) -> None:
    """A named subset of a data set, as a data set of its own."""
    from cxrlib.data.gather import gather, read_names

    names = read_names(given.names)
    print(f"{len(names):,} images in {gather(given.img_root, names, given.out)}")


def phantom(given: argparse.Namespace) -> None:
    """Draw a data set of phantom radiographs in the NIH layout."""
    from cxrlib.phantom.generate import make_phantoms

    print(
        make_phantoms(given.root, given.n_patients, given.size, given.seed, given.prevalence, not given.no_label_noise)
    )


def _whole_numbers(name: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise InputError(f"{name} {text!r} cannot be read; expected whole numbers such as 0,1,2") from None


def _at_least(given: argparse.Namespace, **least: int) -> None:
    for name, value in least.items():
        if getattr(given, name) < value:
            raise InputError(f"{name} {getattr(given, name)} is too small; expected at least {value}")


def _can_write(folder: str) -> None:
    """InputError where the results could not be written in the end; makes nothing."""
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written ({there} is {'read-only' if there.is_dir() else 'a file'}); "
                         "choose another folder")  # fmt: skip


def _open(given: argparse.Namespace):
    from cxrlib.course.runs import open_data

    if not given.img_root:
        raise InputError("img_root is not given; expected the folder of the radiographs, such as --img_root data/raw")
    data = open_data(given.csv_path and Path(given.csv_path).absolute(), Path(given.img_root).absolute())
    print(data.summary)
    return data


def _images(given: argparse.Namespace, data, image_size: int, names: list[str]):
    """The cache with these images; what on_bad_image=skip leaves out is recorded in run.json of the output folder."""
    from cxrlib.core.paths import CACHE
    from cxrlib.course.runs import RunFolder
    from cxrlib.data.cache import build_cache

    cache = build_cache(data.images, image_size, names, given.cache_dir or CACHE, on_bad_image=given.on_bad_image)
    folder = getattr(given, "run_dir", getattr(given, "out", None))
    if cache.bad and folder:
        RunFolder(Path(folder).absolute()).record(given.name, on_bad_image="skip", left_out=cache.bad)
    return cache


def _held_out(given: argparse.Namespace, checkpoint: dict, data):
    """Validation and test entries by what the checkpoint remembers, each cut to its subset."""
    from cxrlib.data.splits import restore, subset

    config = checkpoint["config"]
    entries = restore(data.entries, checkpoint["parts"], config["split"])
    val = subset(entries, "val", config["val_subset"], config["seed"])
    test = subset(entries, "test", given.subset, config["seed"])
    for part, chosen in (("validation", val), ("test", test)):
        if chosen.empty:
            raise InputError(
                f"{given.csv_path or given.img_root} holds no image of the {part} part of {given.weights} (split "
                f"{config['split']}, seed {config['seed']}); give the data set that it was trained from"
            )
    return val, test


def _check_model(config) -> None:
    """Say before anything is decoded or trained that weights cannot be had, or that there is no dropout to change."""
    from cxrlib.models.architectures import build_model
    from cxrlib.training.config import strengthen_dropout

    if config.weights != "none" or config.drop_strength != 1:
        model = build_model(config.arch, config.weights, config.image_size)
        strengthen_dropout(model, config.drop_strength)


def _model(given: argparse.Namespace, checkpoint: dict):
    from cxrlib.models.architectures import model_from_checkpoint
    from cxrlib.training.device import pick_device

    return model_from_checkpoint(checkpoint).to(pick_device(given.device))
