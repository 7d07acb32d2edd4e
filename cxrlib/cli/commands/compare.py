"""cxr compare."""

from pathlib import Path

import pandas as pd

from cxrlib.cli.commands.opening import check_training, data_of, images_of
from cxrlib.cli.options import CompareOptions
from cxrlib.core.paths import check_folder, write_csv
from cxrlib.data.splits import split, subset, subsets
from cxrlib.plots import comparison as plots
from cxrlib.plots.style import save_figure
from cxrlib.training import comparison
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import pick_device
from cxrlib.training.familiarity import remember_training
from cxrlib.training.inputs import datasets


def run(options: CompareOptions) -> None:
    """Train every candidate with every seed; what run_dir holds of the same question is not trained again."""
    comparison.parse_budget(options.budget)
    each = comparison.candidates(options.archs, options.config)
    check_folder(options.run_dir, "figures")
    device = pick_device(options.device)
    data, out = data_of(options), Path(options.run_dir)
    entries = split(data.entries, options.split, options.seed, options.fractions, data.folders)
    for config in each.values():
        check_training(config, entries, data)
    most = max(options.train_subset, *options.sizes, 0)
    test = subsets(entries, most, options.val_subset, options.subset, options.seed).query("part == 'test'")
    costs = comparison.kept_costs(each, out / "costs.json")
    train, val = ((entries["part"] == part).sum() for part in ("train", "val"))
    each = comparison.with_budget(each, options.budget, train, val, costs)
    names = _images_used(each, options, entries) | set(test["image"])
    images = images_of(options, data, options.image_size, sorted(names), options.run_dir)
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
        curves = {
            name: comparison.learning_curve(config, options.sizes, options.seeds, entries, images, test, folders[name])
            for name, config in each.items()
        }
        tables["learning_curves"] = pd.concat(curves, names=["arch"])
        figures["04_learning_curves"] = plots.plot_learning_curves(curves)
    for name, content in tables.items():
        write_csv(out / f"{name}.csv", content)
    for name, figure in figures.items():
        save_figure(figure, name, out / "figures")
    for name, config in each.items():  # so that predict can tell whether an image is of the members' kind
        for seed in options.seeds:
            weights = comparison.member_folder(out, name, seed) / "model_best.pth"
            remember_training([weights], *datasets(config.replace(seed=seed), entries, images), device)
    print("\n\n".join(content.round(3).to_string() for content in tables.values()) + f"\nwrote them to {out}")


def _images_used(each: dict[str, TrainConfig], options: CompareOptions, entries: pd.DataFrame) -> set[str]:
    """The names of all training and validation images that any member of the comparison uses."""
    names = set()
    for config in each.values():
        sizes = (config.train_subset, *options.sizes)
        largest = 0 if 0 in sizes else max(sizes)
        for seed in options.seeds:
            names |= set(subset(entries, "train", largest, seed)["image"])
            names |= set(subset(entries, "val", config.val_subset, seed)["image"])
    return names
