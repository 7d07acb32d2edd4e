"""One protocol for several architectures: budgets, members that are not trained twice, intervals, Holm, the front."""

import json
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from cxrlib.cli.main import main
from cxrlib.core.errors import InputError
from cxrlib.evaluation.differences import holm, paired_difference
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import ARCHITECTURES
from cxrlib.models.checkpoints import load_checkpoint
from cxrlib.plots.comparison import (
    pareto_front,
    plot_changes,
    plot_costs,
    plot_differences,
    plot_learning_curves,
    plot_paired,
)
from cxrlib.plots.style import alt_text
from cxrlib.training import comparison, familiarity
from cxrlib.training.comparison import (
    all_differences,
    candidates,
    compare,
    comparison_table,
    learning_curve,
    member_folder,
    minutes,
    parse_budget,
    with_budget,
)
from cxrlib.training.config import TrainConfig

SIDE = 32
QUICK = TrainConfig(arch="mobilenet_v2", weights="none", image_size=SIDE, epochs=1, batch_size=8, split="patient",
                    device="cpu", precision="fp32", layout="channels_last")  # fmt: skip


def _kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


class Kills:
    """Kills the process that unpickles it."""

    def __reduce__(self):
        return _kill_this_process, ()


@pytest.fixture
def trained(monkeypatch):
    """The folders that were trained in."""
    folders = []
    original = comparison.fit

    def fit(*args, **options):
        folders.append(f"{args[3].parent.name}/{args[3].name}")
        return original(*args, **options)

    monkeypatch.setattr(comparison, "fit", fit)
    return folders


def random_predictions(signal, seed=0, patients=60, noise=0):
    """Two images a patient; scores that lean towards the labels by `signal`; the labels do not depend on `noise`."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((2 * patients, 14)) < 0.3).astype(np.uint8)
    drawn = np.random.default_rng((seed, noise)).normal(size=labels.shape) + signal * labels
    names = [f"{i:03d}.png" for i in range(2 * patients)]
    return Predictions(1 / (1 + np.exp(-drawn)), labels, names, np.repeat(np.arange(patients), 2))


def test_candidates_on_other_labels_are_refused():
    results = {"one": [random_predictions(1)], "two": [random_predictions(1, noise=1)]}
    other = replace(results["two"][0], labels=1 - results["two"][0].labels)
    with pytest.raises(InputError, match="different seeds, test images or labels"):
        comparison_table(results | {"two": [other]}, replicates=10)


def test_each_candidate_has_a_folder_of_its_own(tmp_path):
    names = [
        f"efficientnet_lite0{start}" for start in ("", ":none", ":a-b/m.pth", ":a/b/m.pth", ":a b/m.pth", ":ä/m.pth")
    ]
    folders = [member_folder(tmp_path, name, 0) for name in names]
    assert len(set(folders)) == len(names)
    assert all(folder.parent.parent == tmp_path for folder in folders)
    assert folders[1] == tmp_path / "efficientnet_lite0-none" / "seed0"


def test_a_seed_counts_once(tmp_path):
    with pytest.raises(InputError, match="seeds 0, 1, 0 cannot be used; expected one or more, each once"):
        compare({"mobilenet_v2": QUICK}, (0, 1, 0), pd.DataFrame(), {}, pd.DataFrame(), tmp_path)


def test_costs_that_another_measured_meanwhile_are_kept(tmp_path, monkeypatch):
    path, measured = tmp_path / "costs.json", []

    def measure(config):
        measured.append(config.arch)
        if len(measured) == 1:  # another task waits for its turn, and finds what this one wrote
            other = threading.Thread(target=comparison.kept_costs, args=({"b": QUICK.replace(arch="resnet18")}, path))
            other.start()
            others.append(other)
        return {"memory": 1.0}

    others = []
    monkeypatch.setattr(comparison, "measure_costs", measure)
    comparison.kept_costs({"a": QUICK}, path)
    others[0].join()
    assert len(json.loads(path.read_text())) == 2
    comparison.kept_costs({"a": QUICK, "b": QUICK.replace(arch="resnet18")}, path)
    assert len(measured) == 2
    comparison.kept_costs({"a": QUICK.replace(layout="contiguous")}, path)
    assert len(measured) == 3


def field(signals, seeds=3):
    return {name: [random_predictions(signal, noise=10 * place + seed) for seed in range(seeds)]
            for place, (name, signal) in enumerate(signals.items())}  # fmt: skip


# ---- who, and how long -----------------------------------------------------------------------------------------------
def test_all_seven_take_part_unless_named():
    assert list(candidates([], QUICK)) == list(ARCHITECTURES)
    each = candidates(["resnet18", "efficientnet_lite0:imagenet"], QUICK)
    assert [(name, one.arch, one.weights) for name, one in each.items()] == [
        ("resnet18", "resnet18", "none"),
        ("efficientnet_lite0:imagenet", "efficientnet_lite0", "imagenet"),
    ]
    assert each["resnet18"] == QUICK.replace(arch="resnet18")
    with pytest.raises(InputError, match="did you mean 'resnet18'"):
        candidates(["resnet81"], QUICK)


@pytest.mark.parametrize(
    "budget",
    ["steps=0", "steps=2.5", "minutes=-1", "minutes=nan", "minutes=inf", "epochs=", "hours=3", "200", "steps 5"],
)
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(InputError, match="cannot be read; expected"):
        parse_budget(budget)


def test_budgets_are_read():
    assert parse_budget("steps = 200") == ("steps", 200)
    assert parse_budget("minutes=0.5") == ("minutes", 0.5)


def test_the_same_steps_are_the_same_epochs_for_all():
    each = candidates(["resnet18", "mobilenet_v2"], QUICK)
    planned = with_budget(each, "steps=26", train=100, val=20)  # 13 steps an epoch of 100 images, 8 at a time
    assert {one.epochs for one in planned.values()} == {2}
    assert {one.train_subset for one in planned.values()} == {0}
    short = with_budget(each, "steps=5", train=100, val=20)
    assert {(one.epochs, one.train_subset) for one in short.values()} == {(1, 40)}
    assert {one.epochs for one in with_budget(each, "epochs=7", 100, 20).values()} == {7}
    cut = with_budget({"a": QUICK.replace(train_subset=40)}, "steps=20", train=100, val=20)
    assert (cut["a"].epochs, cut["a"].train_subset) == (4, 40)


def test_the_same_minutes_are_more_epochs_for_the_fast():
    costs = pd.DataFrame({"train_images_per_s": [100, 10, 1], "images_per_s": [300, 30, 3]}, index=["a", "b", "c"])
    each = dict.fromkeys(costs.index, QUICK)
    planned = with_budget(each, "minutes=1", train=500, val=90, costs=costs)
    # 60 s: an epoch and its validation take 5.3 s, 53 s, 530 s
    assert [(one.epochs, one.train_subset) for one in planned.values()] == [(11, 0), (1, 0), (1, 30)]


# ---- members ---------------------------------------------------------------------------------------------------------
def test_a_finished_member_is_not_trained_again(entries, cache, tmp_path, trained):
    each = candidates(["mobilenet_v2", "efficientnet_lite0:none"], QUICK)
    test = entries[entries["part"] == "test"]
    given = {"entries": entries, "images": cache, "test": test, "out": tmp_path / "out"}
    first = compare(each, [0, 1], **given)
    assert trained == ["mobilenet_v2/seed0", "mobilenet_v2/seed1",
                       "efficientnet_lite0-none/seed0", "efficientnet_lite0-none/seed1"]  # fmt: skip
    assert all(one.image.tolist() == test["image"].tolist() for results in first.values() for one in results)
    assert not np.array_equal(first["mobilenet_v2"][0].scores, first["mobilenet_v2"][1].scores)
    assert all(value > 0 for value in minutes(tmp_path / "out", each, [0, 1]).values())

    trained.clear()
    (member_folder(tmp_path / "out", "mobilenet_v2", 1) / "predictions_test.npz").unlink()  # as if stopped there
    again = compare(each, [0, 1, 2], **given)
    assert trained == ["mobilenet_v2/seed1", "mobilenet_v2/seed2", "efficientnet_lite0-none/seed2"]
    for name in each:
        for one, two in zip(first[name], again[name][:2], strict=True):
            np.testing.assert_array_equal(one.scores, two.scores)

    trained.clear()
    compare({"mobilenet_v2": QUICK.replace(lr=1e-2)}, [0], **given)
    assert trained == ["mobilenet_v2/seed0"], "another learning rate is another question"
    trained.clear()
    compare({"mobilenet_v2": QUICK.replace(lr=1e-2)}, [0], **given | {"test": test.head(5)})
    assert trained == ["mobilenet_v2/seed0"], "other test images, too"
    with pytest.raises(InputError, match="expected one or more"):
        compare(each, [], **given)


def test_trainings_at_the_same_time_have_one_thread_each(entries, cache, tmp_path):
    each, test = candidates(["mobilenet_v2", "efficientnet_lite0:none"], QUICK), entries[entries["part"] == "test"]
    together = compare(each, [0], entries, cache, test, tmp_path / "together", jobs=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        after_another = compare(each, [0], entries, cache, test, tmp_path / "after another")
    finally:
        torch.set_num_threads(threads)
    for name in each:
        np.testing.assert_array_equal(together[name][0].scores, after_another[name][0].scores)
    assert torch.get_num_threads() == threads


def test_a_training_that_is_killed_is_one_sentence_and_the_others_stay(entries, cache, tmp_path):
    test = entries[entries["part"] == "test"]
    given = {"entries": entries, "images": cache, "test": test, "out": tmp_path}
    compare({"a": QUICK}, [0], **given)
    with pytest.raises(InputError, match=r"was killed.* lower jobs; finished trainings are kept"):
        compare({"a": QUICK, "b": QUICK}, [0], **given | {"images": Kills()}, jobs=2)
    assert (member_folder(tmp_path, "a", 0) / "predictions_test.npz").is_file()


def test_a_larger_subset_only_adds(entries, cache, tmp_path):
    config = QUICK.replace(mode="probe")
    test = entries[entries["part"] == "test"]
    curve = learning_curve(config, [12, 0], [0, 1], entries, cache, test, tmp_path)
    assert curve["images"].iloc[0] <= 12 < curve["images"].iloc[1] == (entries["part"] == "train").sum()
    assert curve["seeds"].tolist() == [2, 2]
    assert json.loads((tmp_path / "12" / "seed1" / "member.json").read_text())["train_subset"] == 12
    assert "12" in alt_text(plot_learning_curves({"probe": curve}))


# ---- what is said of them --------------------------------------------------------------------------------------------
def test_the_mean_over_seeds_and_their_spread():
    results = field({"good": 1.5, "poor": 0.3})
    table = comparison_table(results, replicates=300)
    each = [evaluate(one, replicates=0).loc["macro", "auroc"] for one in results["good"]]
    assert table.loc["good", "auroc"] == pytest.approx(np.mean(each))
    assert table.loc["good", "seed_sd"] == pytest.approx(np.std(each, ddof=1))
    assert (table["auroc_low"] < table["auroc"]).all()
    assert (table["auroc"] < table["auroc_high"]).all()
    assert table["seeds"].tolist() == [3, 3]
    assert np.isnan(comparison_table(field({"one": 1.0}, seeds=1), 50).loc["one", "seed_sd"])


def test_seeds_that_disagree_widen_the_interval():
    steady = {"a": [random_predictions(1.0, noise=seed) for seed in range(4)]}
    wild = {"a": [random_predictions(signal, noise=seed) for seed, signal in enumerate((0.2, 0.8, 1.2, 1.8))]}
    width = [float((table["auroc_high"] - table["auroc_low"]).iloc[0])
             for table in (comparison_table(results, 500) for results in (steady, wild))]  # fmt: skip
    assert width[1] > 2 * width[0]


def test_with_images_that_leave_no_doubt_the_interval_is_that_of_student_over_the_seeds():
    values = np.random.default_rng(0).normal(0.7, 0.05, (1, 3))
    ends, p = comparison._with_seeds(np.full((100, 1), values.mean()), values, 50)
    expected = stats.t.interval(0.95, 2, values.mean(), stats.sem(values[0]))
    np.testing.assert_allclose(ends[:, 0], expected)
    assert p[0] == pytest.approx(stats.ttest_1samp(values[0], 0).pvalue)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("between", [0.01, 0.05])
def test_intervals_cover_another_training_on_other_patients(seeds, between):
    """At least 95 % of the intervals hold the true mean; those of a bootstrap of two or three seeds 61 and 81 %."""
    if seeds == 1:
        between = 0.0  # what a single training does not tell
    rng, of_patients, runs = np.random.default_rng(seeds), 0.02, 4000
    each = (rng.normal(0, of_patients, runs) + rng.normal(0, between, (seeds, runs))).T
    drawn = each.mean(axis=1) + rng.normal(0, of_patients, (500, runs))
    (low, high), p = comparison._with_seeds(drawn, each, 80)
    covered = ((low <= 0) & (high >= 0)).mean()
    assert covered > 0.935, "too narrow"
    assert np.array_equal((low <= 0) & (high >= 0), p >= 0.05), "p and interval agree"


def test_differences_are_paired_and_corrected():
    results = field({"middle": 0.8, "best": 2.0, "worst": 0.1}, seeds=1)
    table = all_differences(results, replicates=500)
    assert [(row.a, row.b) for row in table.itertuples()] == [
        ("best", "middle"),
        ("best", "worst"),
        ("middle", "worst"),
    ]
    np.testing.assert_allclose(table["p_holm"], holm(table["p"].to_numpy()))
    assert (table["difference"] > 0).all()
    one = paired_difference(results["best"][0], results["middle"][0], replicates=500).loc["macro"]
    for column in ("difference", "low", "high"):
        assert table.loc[0, column] == pytest.approx(one[column], abs=2e-3), column
    assert max(table.loc[0, "p"], one["p"]) < 0.01


def test_the_same_model_cannot_be_told_from_itself():
    same = random_predictions(1.0)
    table = all_differences({"a": [same], "b": [same]}, replicates=100)
    assert table.loc[0, ["difference", "low", "high"]].tolist() == [0, 0, 0]
    assert table.loc[0, "p_holm"] == 1
    assert table.loc[0, ["a", "b"]].tolist() == ["a", "b"], "of equals, the first is named first"


def test_a_single_patient_has_no_interval():
    ends, p = comparison._with_seeds(np.full((9, 1), 0.7), np.array([[0.7, 0.71]]), 1)
    assert np.isnan(ends).all()
    assert np.isnan(p).all()


def test_what_cannot_be_paired_is_refused():
    one, two = random_predictions(1.0), random_predictions(0.5)
    with pytest.raises(InputError, match="different seeds"):
        comparison_table({"a": [one, two], "b": [two]})
    with pytest.raises(InputError, match="different seeds, test images"):
        comparison_table({"a": [one], "b": [two.take(np.arange(50))]})


def test_the_front_is_who_is_beaten_by_nobody():
    table = pd.DataFrame({"auroc": [0.6, 0.7, 0.65, 0.7, 0.6], "cost": [1, 2, 3, 4, 1]}, index=list("abcde"))
    assert pareto_front(table, "cost").to_dict() == {"a": True, "b": True, "c": False, "d": False, "e": True}


def test_figures_show_every_candidate_and_say_it_in_words():
    results = field({"resnet18": 1.2, "vgg16": 0.6, "lite0:imagenet": 1.3})
    table = comparison_table(results, 100).assign(parameters=[11.2, 134, 3.4], gflop=[3.6, 31, 0.8], minutes=[1, 9, 1])
    figure = plot_costs(table)
    assert [axes.get_xlabel().split(" (")[0] for axes in figure.axes] == [
        "parameters",
        "10⁹ operations per image",
        "minutes of training",
    ]
    assert len(figure.axes[0].containers) == 3
    front = figure.axes[0].lines[0].get_xdata()
    assert front.tolist() == [3.4], "nobody is better or smaller"
    assert "vgg16 0." in alt_text(figure)
    given = plot_costs(table, dict.fromkeys(table.index, ("red", "o"))).axes
    assert {bar[0].get_color() for axes in given for bar in axes.containers} == {"red"}
    short = [label.get_text() for label in given[2].get_xticklabels()]
    assert {"1", "2", "5"} <= set(short)
    pairs = plot_differences(all_differences(results, 100))
    assert next(label.get_text() for label in pairs.axes[0].get_yticklabels()) == "lite0:imagenet − resnet18"
    assert "Holm's p" in alt_text(pairs)


def test_who_has_not_left_chance_is_hollow_and_not_on_the_front():
    table = pd.DataFrame({"auroc": [0.7, 0.52], "auroc_low": [0.6, 0.45], "auroc_high": [0.8, 0.6]}, ["big", "small"])
    figure = plot_costs(table.assign(parameters=[10, 1], gflop=[10, 1], minutes=[10, 1]))
    fills = [bar[0].get_markerfacecolor() for bar in figure.axes[0].containers]
    assert fills[1] == "white" != fills[0]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [10]
    assert "Pareto front by parameters: big;" in alt_text(figure)


def test_a_network_that_scores_all_images_alike_correlates_with_none(recwarn):
    one = np.random.default_rng(0).normal(0.7, 0.01, 200)
    figure = plot_paired(one, {"dead": np.full(200, 0.5)}, "one")
    assert figure.axes[0].get_title(loc="left").startswith("correlation undefined\n")
    assert not recwarn.list


def test_paired_draws_show_what_two_models_share_and_their_difference():
    draw = np.random.default_rng(0).normal
    one, two = draw(0.7, 0.02, 500), draw(0.6, 0.02, 500)
    figure = plot_paired(one, {"twin": one - 0.01, "other": two}, "one")
    assert "one and twin: correlation 1.00; sd of difference 0.0000; if independent 0.02" in alt_text(figure)
    assert "same draws: +0.010 to +0.010" in alt_text(figure)
    *scatter, histogram = figure.axes
    assert [axes.get_ylabel() for axes in scatter] == ["twin", "other"]
    assert scatter[1].collections[0].get_offsets().tolist() == np.column_stack([one, two]).tolist()
    paired, loose = (outline.get_xy()[:, 1] for outline in histogram.patches)
    assert set(paired) == {0.0, 500.0}
    assert (loose > 0).sum() > 20, "on different draws the difference is as wide as two estimates on their own"
    spans = [np.ptp(axes.get_xlim()) for axes in scatter] + [np.ptp(axes.get_ylim()) for axes in scatter]
    assert spans == pytest.approx([spans[0]] * 4), "widths can be compared by eye"


def test_changes_are_filled_by_holms_p_under_the_heading_of_their_recipe():
    rows = [("better", 0.02, 0.01, 0.03, 0.01), ("unclear", -0.01, -0.02, 0, 0.2), ("worse", -0.02, -0.03, -0.01, 0)]
    table = pd.DataFrame([("A", *[np.nan] * 4), *rows], columns=["variant", "difference", "low", "high", "p_holm"])
    figure = plot_changes(table, "Changes")
    [axes] = figure.axes
    names = {label.get_text(): y for label, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    assert names == {"A": 3, "better": 2, "unclear": 1, "worse": 0}
    clear, unclear = ([x for x in line.get_xdata() if not np.isnan(x)] for line in axes.lines[:2])
    assert (clear, unclear) == ([0.02, -0.02], [-0.01])
    assert alt_text(figure).startswith("Changes: better +0.020 (+0.010 to +0.030); unclear")


# ---- cxr compare -----------------------------------------------------------------------------------------------------
def test_the_command_writes_tables_and_figures(tiny_nih, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(familiarity, "_LEAST", 5)  # images of a part, of which tiny parts have fewer
    given = ["compare", "--img_root", str(tiny_nih.root), "--archs", "mobilenet_v2,resnet18", "--weights", "none",
             "--image_size", "32", "--batch_size", "8", "--budget", "steps=3", "--seeds", "0", "--sizes", "10",
             "--precision", "fp32", "--layout", "channels_last", "--split", "patient", "--device", "cpu",
             "--cache_dir", str(tmp_path / "cache"), "--run_dir", str(tmp_path / "run")]  # fmt: skip
    assert main(given) == 0
    out = tmp_path / "run"
    table = pd.read_csv(out / "comparison.csv", index_col="arch")
    assert list(table.index) == ["mobilenet_v2", "resnet18"]
    assert {"auroc", "auroc_low", "auroc_high", "seed_sd", "minutes", "parameters", "gflop", "memory"} <= set(table)
    assert pd.read_csv(out / "comparison_differences.csv")["p_holm"].between(0, 1).all()
    assert len(pd.read_csv(out / "learning_curves.csv")) == 2
    assert {path.stem for path in (out / "figures").glob("*.png")} == {
        "04_accuracy_cost", "04_differences", "04_learning_curves",
    }  # fmt: skip
    asked = json.loads((out / "resnet18" / "seed0" / "member.json").read_text())
    assert (asked["epochs"], asked["train_subset"]) == (1, 24), "three steps of eight images"
    assert str(out) in capsys.readouterr().out
    for member in out.glob("*/seed0/model_best.pth"):
        assert load_checkpoint(member)["familiarity"] is not None, "for predict"


def test_one_architecture_with_several_seeds_makes_no_pair(tiny_nih, tmp_path):
    given = ["compare", "--img_root", str(tiny_nih.root), "--archs", "mobilenet_v2", "--weights", "none",
             "--image_size", "32", "--batch_size", "8", "--budget", "steps=2", "--seeds", "0,1", "--precision", "fp32",
             "--layout", "channels_last", "--split", "patient", "--device", "cpu",
             "--cache_dir", str(tmp_path / "cache"), "--run_dir", str(tmp_path / "run")]  # fmt: skip
    assert main(given) == 0
    assert pd.read_csv(tmp_path / "run" / "comparison.csv")["seeds"].to_list() == [2]
    assert [path.name for path in (tmp_path / "run" / "figures").glob("*.png")] == ["04_accuracy_cost.png"]


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--seeds", "a,b", "seeds 'a' cannot be used; expected whole numbers"),
        ("--seeds", "0,-1", "seeds -1 cannot be used; expected whole numbers from 0"),
        ("--sizes", "-5", "sizes -5 cannot be used; expected whole numbers from 0"),
        ("--budget", "steps=many", "budget 'steps=many' cannot be read"),
        ("--archs", "resnet81", "did you mean 'resnet18'"),
        ("--img_root", "", "img_root is not given"),
    ],
)
def test_the_command_refuses_before_it_reads_anything(flag, value, message, tmp_path, capsys):
    given = {"--img_root": str(tmp_path), "--weights": "none", "--run_dir": str(tmp_path / "run"), flag: value}
    assert main(["compare", *(word for pair in given.items() for word in pair)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
