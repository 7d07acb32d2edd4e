"""cxr train, compare, eval (also at another hospital) and gradcam: models, made and measured."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cxrlib.cli import options as declared
from cxrlib.cli.commands.data import data_of, images_of
from cxrlib.core import processes
from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import check_folder, one_process, read_json, write_csv, write_text
from cxrlib.course.opening import Data
from cxrlib.data.cache import ImageCache
from cxrlib.data.external import open_external
from cxrlib.data.splits import restore, split, subset, subsets
from cxrlib.evaluation import agreement, audits, differences, protocol
from cxrlib.evaluation.bootstrap import Bootstrap
from cxrlib.evaluation.calibration import Calibrator, mean_calibrated, methods_text, operating_points
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import Thresholds, parse_how
from cxrlib.explain import case_maps, localization
from cxrlib.explain.gradcam import mean_maps
from cxrlib.models.architectures import ChestXrayModel, build_model, model_from_checkpoint
from cxrlib.models.checkpoints import Ensemble, digest, load_ensemble
from cxrlib.plots import comparison as plots, style
from cxrlib.plots.maps import write_overlays
from cxrlib.training import comparison, familiarity, inference, inputs, loop, optimization
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import pick_device


def train(options: declared.TrainOptions) -> None:
    """Train on the training images, choose the epoch on the validation images, never look at the test images."""
    config, out = options.config, Path(options.run_dir)
    check_folder(out)
    pick_device(config.device)
    data, entries = _split([config], options)
    used = subsets(entries[entries["part"] != "test"], config.train_subset, config.val_subset, seed=config.seed)
    images = images_of(options, data.images, config.image_size, used["image"], options.run_dir)
    alone = one_process(out / ".train.lock", f"training into {out}")
    with alone if processes.is_first() else nullcontext():  # the processes of one training share it
        history = loop.fit(config, entries, images, out)
    kept = history[history["best"]].iloc[-1]
    print(f"kept epoch {kept['epoch']:.0f}: validation macro AUROC {kept['val_auroc']:.4f}")
    print(f"wrote {out / 'model_best.pth'} and model_last.pth")


def _split(configs: list[TrainConfig], options: declared.TrainOptions) -> tuple[Data, pd.DataFrame]:
    """The data set and its parts; InputError, before an image is decoded, for what `fit` would refuse."""
    data = data_of(options)
    entries = split(data.entries, options.split, options.seed, options.fractions, data.folders)
    for config in configs:
        if config.weights != "none" or config.drop_strength != 1:
            model = build_model(config.arch, config.weights, config.image_size)
            optimization.strengthen_dropout(model, config.drop_strength)
        inputs.parts_to_remember(config, entries)
        inputs.datasets(config, entries, data.images)
    return data, entries


def compare(options: declared.CompareOptions) -> None:
    """Train every candidate with every seed; what run_dir holds of the same question is not trained again."""
    comparison.parse_budget(options.budget)
    each, out = comparison.candidates(options.archs, options.config), Path(options.run_dir)
    check_folder(out, "figures")
    device = pick_device(options.device)
    data, entries = _split(list(each.values()), options)
    most = max(options.train_subset, *options.sizes, 0)
    test = subsets(entries, most, options.val_subset, options.subset, options.seed).query("part == 'test'")
    costs = comparison.kept_costs(each, out / "costs.json")
    train, val = ((entries["part"] == part).sum() for part in ("train", "val"))
    each = comparison.with_budget(each, options.budget, train, val, costs)
    wanted = [size for config in each.values() for size in (config.train_subset, *options.sizes)]
    largest = {"train": 0 if 0 in wanted else max(wanted), "val": options.val_subset}  # which hold the smaller ones
    used = [subset(entries, part, size, seed)["image"] for part, size in largest.items() for seed in options.seeds]
    names = sorted(set(test["image"]).union(*used))
    images = images_of(options, data.images, options.image_size, names, options.run_dir)
    results = comparison.compare(each, options.seeds, entries, images, test, out, options.jobs)
    table = comparison.comparison_table(results)
    table = table.assign(minutes=comparison.minutes(out, each, options.seeds)).join(costs)
    tables, figures = {"comparison": table}, {"04_accuracy_cost": plots.plot_costs(table)}
    if len(each) > 1:
        differences = comparison.all_differences(results)
        tables["comparison_differences"] = differences.set_index(["a", "b"])
        figures["04_differences"] = plots.plot_differences(differences)
    if options.sizes:
        folders = {name: comparison.member_folder(out / "sizes", name, 0).parent for name in each}
        how = (options.sizes, options.seeds, entries, images, test)
        curves = {name: comparison.learning_curve(config, *how, folders[name]) for name, config in each.items()}
        tables["learning_curves"] = pd.concat(curves, names=["arch"])
        figures["04_learning_curves"] = plots.plot_learning_curves(curves)
    for name in ("comparison_differences", "learning_curves"):  # of an earlier comparison
        (out / f"{name}.csv").unlink(missing_ok=True)
    for name, content in tables.items():
        write_csv(out / f"{name}.csv", content)
    for name, figure in figures.items():
        style.save_figure(figure, name, out / "figures")
    for name, config in each.items():  # so that predict can tell whether an image is of the members' kind
        for seed in options.seeds:
            own = inputs.datasets(config.replace(seed=seed), entries, images)
            familiarity.remember_training([comparison.member_folder(out, name, seed) / "model_best.pth"], *own, device)
    print("\n\n".join(content.round(3).to_string() for content in tables.values()) + f"\nwrote them to {out}")


def held_out(options, ensemble: Ensemble, data: Data, needed=("val", "test")) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Validation and test entries that the checkpoints remember, in their subsets. InputError if `needed` ones lack."""
    config = ensemble.config
    entries = restore(data.entries, ensemble.parts, config["split"], data.folders)
    if "val" not in needed and config["split"] != "official" and (entries["part"] == "").all():
        # no metric of a split is computed, and neither an image nor a patient is one that a model was trained on
        entries = entries.assign(part="test")
        print(f"{ensemble.name} knows none of these images and patients; all of them count as test images")
    if len(other := entries[entries["part"] == ""]):
        whose = f"{len(other):,} images of {other['patient'].nunique():,} patients ({some(other['image'], 3)})"
        print(f"left out: {whose}, which are in no part of the {config['split']} split of {ensemble.name}")
    used = subsets(entries, val=config["val_subset"] * ("val" in needed), test=options.subset, seed=config["seed"])
    parts = {part: used[used["part"] == part] for part in ("val", "test")}
    for part in needed:
        if parts[part].empty:
            name = "validation" if part == "val" else part
            where = f"{options.csv_path or options.img_root} holds no image of the {name} part of {ensemble.name}"
            raise InputError(f"{where} (split {config['split']}); give the data set that it was trained from")
    return parts["val"], parts["test"]


def _operating_point(options, ensemble: Ensemble) -> tuple[tuple[Calibrator, ...], Thresholds | None]:
    """Calibrators and thresholds (or None, which is said) of the checkpoints, or of the file `options.thresholds`."""
    calibrations, tuned = [one.get("calibration") for one in ensemble.members.values()], ensemble.thresholds
    if options.thresholds:
        path = Path(options.thresholds)
        beside = [path.with_name(f"calibration{number}.json") for number in protocol.numbered(len(calibrations))]
        tuned = Thresholds.load(path).to_dict()
        if all(file.is_file() for file in beside):
            calibrations = [Calibrator.load(file).to_dict() for file in beside]
            of, ours = read_json(path).get("models"), [digest(one["state_dict"]) for one in ensemble.members.values()]
            if of and of != ours and sorted(of) == sorted(ours):
                raise InputError(f"{path} is of these models in another order; give them as cxr eval was given them")
    elif tuned is None:
        print(f"{ensemble.name} holds no thresholds; cxr eval --update_checkpoint adds them, or give --thresholds")
    return operating_points(calibrations, tuned)


def _caches(
    options: declared.HeldOutOptions, models: list[ChestXrayModel], images: dict[str, Path], names
) -> list[ImageCache]:
    sizes = dict.fromkeys(model.image_size for model in models)
    caches = {size: images_of(options, images, size, names, options.out) for size in sizes}
    return [caches[model.image_size] for model in models]


def _predicted(options: declared.HeldOutOptions, ensemble: Ensemble, images: dict[str, Path], *parts: pd.DataFrame):
    """The models on their device, their caches, and for each part what each predicts: all of it, in each process."""
    together = None
    if processes.several():
        from accelerate import Accelerator  # before the models: it gives each process a GPU of its own

        together = Accelerator(cpu=options.device == "cpu", mixed_precision="no")
    device = pick_device(options.device)
    models = [model_from_checkpoint(checkpoint).to(device) for checkpoint in ensemble.members.values()]
    caches = _caches(options, models, images, pd.concat(parts)["image"])
    sets = [[inputs.make_dataset(entries, cache, cache.image_size) for cache in caches] for entries in parts]
    how = (options.batch_size, together, options.num_workers, processes.is_first())
    scores = [[inference.predict(*pair, *how) for pair in zip(models, each, strict=True)] for each in sets]
    return models, caches, scores


def evaluate(options: declared.EvalOptions) -> None:
    """Calibrate and tune on the validation images of the checkpoints, then report on their test images."""
    check_folder(options.out)
    at_home = {"update_checkpoint", "audit", "subset", "calibrate", "objective", "grid"} & options.model_fields_set
    if options.external and at_home:
        raise InputError(f"{some(sorted(at_home), 6)} belong to a model's own hospital; run cxr eval without external")
    if options.external:
        return _elsewhere(options)
    if options.thresholds and (given := {"objective", "grid"} & options.model_fields_set):
        raise InputError(f"{some(sorted(given))} would tune thresholds, and thresholds are given; expected one of both")
    if options.here:
        raise InputError("here is compared with another hospital; expected external, too")
    how = {"calibrate": options.calibrate} | parse_how(options.grid, options.objective)
    how["thresholds"] = Thresholds.load(options.thresholds) if options.thresholds else None
    ensemble, [path, *more] = load_ensemble(options.weights), options.weights
    if options.update_checkpoint and more:
        raise InputError(f"update_checkpoint is given {len(more) + 1} files; make one of them first (cxr ensemble)")
    if options.update_checkpoint:
        check_folder(Path(path).parent)
    data, tables = data_of(options), Path(options.out) / "tables"
    val, test = held_out(options, ensemble, data)
    _, _, (val_scores, test_scores) = _predicted(options, ensemble, data.images, val, test)
    if not processes.is_first():  # every process has all scores; one tunes and writes
        return
    done = protocol.evaluate_at_tuned(val_scores, test_scores, **how, replicates=options.replicates)
    optional = [tables / f"{name}.csv" for name in ("members", "audit", "experts")]  # of an earlier evaluation
    for old in (*optional, *tables.glob("calibration_*.json"), *tables.glob("predictions_test_*.npz")):
        old.unlink(missing_ok=True)
    text = done.text(ensemble.members)
    if len(test_scores) > 1:
        members = differences.mean_against_members(done.test, test_scores, Bootstrap(options.replicates))
        write_csv(tables / "members.csv", members)
        text += f"\nmacro AUROC, 95 % intervals\n{members.to_string(float_format='{:.4f}'.format)}\n"
    done.write(tables, test_scores, text, [digest(member["state_dict"]) for member in ensemble.members.values()])
    if options.update_checkpoint:
        ensemble.save(path, [one.to_dict() for one in done.calibrators], done.thresholds.to_dict())
    print(text, end="")
    state = "now also holds thresholds and calibration" if options.update_checkpoint else "is unchanged"
    print(f"wrote {tables / 'metrics.txt'}, thresholds.json and calibration.json; {ensemble.name} {state}")
    if options.audit:
        found = {"audit.csv": audits.audit(done.test, test, done.thresholds, replicates=options.replicates)}
        if experts := agreement.find_expert_labels(*data.folders):  # or the phantoms' truth
            found["experts.csv"] = audits.against_experts(done.test, experts[0], options.replicates).reset_index()
        for name, table in found.items():
            print(f"wrote {write_csv(tables / name, table, index=False)}")


def _elsewhere(options: declared.EvalOptions) -> None:
    """Measure models with their frozen operating point; writes external.csv, external.txt and the predictions."""
    ensemble = load_ensemble(options.weights)
    calibrators, thresholds = _operating_point(options, ensemble)
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
    learned = {name for names in ensemble.parts.values() for name in names}
    if seen := learned & {*entries["image"], *entries["image"].str.rsplit("/").str[-1]}:
        raise InputError(f"{len(seen)} images, such as {some(sorted(seen), 3)}, are named like images of the training; "
                         "expected another hospital")  # fmt: skip
    if here is not None and (seen := learned & set(here.image)):
        raise InputError(f"{own} holds scores of {len(seen)} images of the training; expected those of its test part")
    _, _, [each] = _predicted(options, ensemble, paths, entries)
    if not processes.is_first():
        return
    calibrator, there = calibrators[0], each[0]
    saved = there
    if len(each) > 1:  # their score is the mean of calibrated ones, which nothing calibrates again
        saved = mean_calibrated(calibrators, each)
        means, calibrator = (here, saved, thresholds), Calibrator()
        here, there, thresholds = (one and replace(one, calibration=calibrator.method) for one in means)
    table = protocol.external(here, there, calibrator, thresholds, resampling=Bootstrap(options.replicates))
    compared = f"no {own}; --here names another file" if here is None else f"{own}, {len(here):,} images"
    about = (f"{name}: {one['arch']}, {one['image_size']} pixels" for name, one in ensemble.members.items())
    head = [*about, f"there: {options.external}: {said}", f"here: {compared}",
            f"frozen: calibration {methods_text(calibrators)}, thresholds for {thresholds.objective}",
            "in brackets: 95 % intervals, bootstrap over patients"]  # fmt: skip
    text, out = protocol.external_text(table, head), Path(options.out)
    write_csv(out / "external.csv", table)
    write_text(out / "external.txt", text)
    saved.save(out / "predictions_external.npz")
    print(f"{text}wrote {out / 'external.csv'}, external.txt and predictions_external.npz")


def gradcam(options: declared.GradcamOptions) -> None:
    """Overlays of one labelled finding each, on test images; with boxes, also a score of the maps."""
    check_folder(options.out)
    ensemble, folder = load_ensemble(options.weights), Path(options.out) / "gradcam"
    calibrators, thresholds = _operating_point(options, ensemble)
    data = data_of(options)
    if options.boxes and data.boxes is None:
        raise InputError(f"{options.img_root} holds no BBox_List_2017.csv; put NIH's list there to score against boxes")
    _, test = held_out(options, ensemble, data, needed=("test",))
    chosen = case_maps.choose(test, options.samples, ensemble.config["seed"])
    if len(chosen) < options.samples:
        print(f"the test part holds {len(chosen)} images, fewer than the {options.samples} samples asked for")
    models, caches, [scores] = _predicted(options, ensemble, data.images, chosen)
    predictions = mean_calibrated(calibrators, scores)
    table = case_maps.score_table(predictions, case_maps.highest_labelled(predictions), thresholds)
    each = [case_maps.overlay_maps(*pair, table, options.method) for pair in zip(models, caches, strict=True)]
    paths = write_overlays(folder, map(mean_maps, zip(*each, strict=True)), table, caches[0], data.boxes)
    print(f"wrote {len(paths)} overlays, a contact sheet and scores.csv to {folder}")
    (folder / "localization.csv").unlink(missing_ok=True)  # of an earlier model
    if not options.boxes:
        return
    cases = localization.box_cases(data.boxes, test)
    caches = _caches(options, models, data.images, cases["image"].unique())
    cases = caches[0].keep_good(cases).reset_index(drop=True)
    how = {"method": options.method, "batch_size": options.batch_size, "progress": True}
    maps = mean_maps([case_maps.case_maps(*pair, cases, **how) for pair in zip(models, caches, strict=True)])
    controls = case_maps.control_maps(models[0], caches[0], cases, maps, **how)
    table = localization.score_boxes(maps, cases, controls, replicates=options.replicates)
    write_csv(folder / "localization.csv", table, index=False)
    shown = localization.interval_table(table).to_string()
    print(f"pointing game, {options.method}, 95 % intervals over patients\n{shown}")
    print(f"wrote {folder / 'localization.csv'}, which also has energy, IoU and IoBB")
