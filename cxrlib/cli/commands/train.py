"""cxr train and compare."""

from contextlib import nullcontext
from pathlib import Path

import pandas as pd

from cxrlib.cli.commands.data import data_of, images_of
from cxrlib.cli.options import CompareOptions, TrainOptions
from cxrlib.core import processes
from cxrlib.core.paths import check_folder, one_process, write_csv
from cxrlib.course.opening import Data
from cxrlib.data.splits import split, subset, subsets
from cxrlib.models.architectures import build_model
from cxrlib.plots import comparison as plots, style
from cxrlib.training import comparison, familiarity, inputs, loop, optimization
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import pick_device


def train(options: TrainOptions) -> None:
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


def _split(configs: list[TrainConfig], options: TrainOptions) -> tuple[Data, pd.DataFrame]:
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


def compare(options: CompareOptions) -> None:
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
    for name, content in tables.items():
        write_csv(out / f"{name}.csv", content)
    for name, figure in figures.items():
        style.save_figure(figure, name, out / "figures")
    for name, config in each.items():  # so that predict can tell whether an image is of the members' kind
        for seed in options.seeds:
            own = inputs.datasets(config.replace(seed=seed), entries, images)
            familiarity.remember_training([comparison.member_folder(out, name, seed) / "model_best.pth"], *own, device)
    print("\n\n".join(content.round(3).to_string() for content in tables.values()) + f"\nwrote them to {out}")
