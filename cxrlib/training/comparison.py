"""Comparison of architectures on the same images, with one budget and several seeds; a member is one training."""

import math
import re
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from itertools import combinations
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from scipy.special import stdtrit

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import one_process, read_json, write_json
from cxrlib.core.progress import bar
from cxrlib.data.splits import subset
from cxrlib.evaluation.bootstrap import count_patients, replicates_with_macro, with_macro
from cxrlib.evaluation.differences import holm
from cxrlib.evaluation.metrics import bootstrap
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import model_from_checkpoint
from cxrlib.models.checkpoints import load_checkpoint
from cxrlib.models.names import ARCHS
from cxrlib.training.config import TrainConfig
from cxrlib.training.costs import measure_costs
from cxrlib.training.device import pick_device
from cxrlib.training.inference import predict
from cxrlib.training.inputs import differing, identity, make_dataset, set_aside
from cxrlib.training.loop import fit

_TESTED = "predictions_test.npz"
Results = dict[str, list[Predictions]]


def candidates(archs: Iterable[str], config: TrainConfig) -> dict[str, TrainConfig]:
    """{name: config} of names such as "resnet18", or "efficientnet_lite0:imagenet" with other weights; of none, all."""
    parts = {name: name.partition(":") for name in archs or ARCHS}
    return {name: config.replace(arch=arch, weights=own or config.weights) for name, (arch, _, own) in parts.items()}


def parse_budget(budget: str) -> tuple[str, float]:
    """Parse a budget: "steps=200" gives ("steps", 200). Raises InputError if it is invalid."""
    unit, _, amount = budget.replace(" ", "").partition("=")
    try:
        value = {"epochs": int, "steps": int, "minutes": float}[unit](amount)
    except (KeyError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"budget {budget!r} cannot be read; expected a number above 0, whole for epochs and steps: "
                         "epochs=2, steps=200 or minutes=3")  # fmt: skip
    return unit, value


def with_budget(each: dict[str, TrainConfig], budget: str, train: int, val: int, costs=None) -> dict[str, TrainConfig]:
    """The configs with the epochs that the budget allows or, if that is less than one, with fewer training images.

    budget: "epochs=2"; "steps=200", the same number of images for all; or "minutes=3", more for fast networks, which
    needs `costs`, the table of `measure_costs`. train, val: images of these splits, of which a config may take fewer.
    """
    unit, amount = parse_budget(budget)
    planned = {}
    for name, config in each.items():
        images, epochs = min(train, config.train_subset or train), amount
        if unit == "steps":
            seen = amount * config.batch_size
            epochs = amount / math.ceil(images / config.batch_size)
        elif unit == "minutes":
            speed = costs.loc[name]
            evaluation = min(val, config.val_subset or val) / speed["images_per_s"]
            seen = max((60 * amount - evaluation) * speed["train_images_per_s"], 2 * config.batch_size)
            epochs = math.floor(60 * amount / (images / speed["train_images_per_s"] + evaluation))
        fewer = {"train_subset": int(seen)} if epochs < 1 else {}
        planned[name] = config.replace(epochs=max(1, round(epochs)), **fewer)
    return planned


def compare(each: dict[str, TrainConfig], seeds: Sequence[int], entries, images, test, out: Path, jobs=1) -> Results:
    """Train every candidate with every seed, predict the test entries, and return {name: one Predictions per seed}.

    entries, images: as in `fit`. `out` gets NAME/seedN/ with the files of `fit` and predictions_test.npz. A finished
    member is read, an interrupted one resumed, one of another `inputs.identity` moved aside and trained again.
    jobs: trainings at once on a CPU, with one thread each (0: one per core); with 1, and on a GPU, one after another.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds {some(seeds, 10)} cannot be used; expected one or more, each once")
    members = {name: [(config.replace(seed=seed, resume=True), member_folder(out, name, seed)) for seed in seeds]
               for name, config in each.items()}  # fmt: skip
    waiting = [one for own in members.values() for one in own if not _is_finished(*one, entries, test)]
    on_cpu = all(pick_device(config.device) == "cpu" for config in each.values())
    _train(waiting, entries, images, test, jobs if on_cpu else 1)
    return {name: [Predictions.load(folder / _TESTED) for _, folder in own] for name, own in members.items()}


def member_folder(out: Path, name: str, seed: int) -> Path:
    """The folder of a member; characters unsuitable for a folder name, but for the colon, become their codes."""
    return out / re.sub(r"[^\w.-]", lambda one: f"+{ord(one[0]):x}", name.replace(":", "-", 1)) / f"seed{seed}"


def minutes(out: Path, names: Iterable[str], seeds: Sequence[int]) -> dict[str, float]:
    """Mean minutes of training and validation over the seeds, by name."""
    tables = {name: [pd.read_csv(member_folder(out, name, seed) / "history.csv") for seed in seeds] for name in names}
    return {name: float(np.mean([one["seconds"].sum() for one in each])) / 60 for name, each in tables.items()}


def comparison_table(results: Results, replicates: int = 2000, seed: int = 0) -> pd.DataFrame:
    """One row per candidate: auroc (macro on test, mean over the seeds), auroc_low, auroc_high, seed_sd, seeds.

    The interval covers the test patients and, from two seeds on, the training (`_with_seeds`); seed_sd is NaN for one.
    """
    drawn, each, patients = _drawn(results, replicates, seed)
    (low, high), _ = _with_seeds(drawn, each, patients)
    spread = each.std(axis=1, ddof=1) if each.shape[1] > 1 else np.nan
    columns = {"auroc": each.mean(axis=1), "auroc_low": low.clip(0), "auroc_high": high.clip(max=1), "seed_sd": spread}
    return pd.DataFrame(columns | {"seeds": each.shape[1]}, index=pd.Index(results, name="arch"))


def all_differences(results: Results, replicates: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Differences in macro AUROC for every pair of candidates, the better one first, paired by patient and seed.

    Columns: a, b, difference, low, high, p (two-sided, `_with_seeds`), p_holm (corrected for multiple testing).
    """
    drawn, each, patients = _drawn(results, replicates, seed)
    names, order = list(results), (-each.mean(axis=1)).argsort(kind="stable")
    one, two = np.array(list(combinations(order, 2)), dtype=int).reshape(-1, 2).T
    (low, high), p = _with_seeds(drawn[:, one] - drawn[:, two], each[one] - each[two], patients)
    columns = {"a": [names[i] for i in one], "b": [names[i] for i in two]}
    columns |= {"difference": (each[one] - each[two]).mean(axis=1), "low": low, "high": high}
    return pd.DataFrame(columns | {"p": p, "p_holm": holm(p)})


def learning_curve(config: TrainConfig, sizes, seeds: Sequence[int], entries, images, test, out: Path) -> pd.DataFrame:
    """`comparison_table` by approximate number of training images (0 is all), with a column images (their mean)."""
    each = {str(size): config.replace(train_subset=size) for size in sizes}
    results = compare(each, seeds, entries, images, test, out)
    table = comparison_table(results, 1000, config.seed)
    counts = {name: np.mean([len(subset(entries, "train", one.train_subset, seed)) for seed in seeds])
              for name, one in each.items()}  # fmt: skip
    return table.assign(images=counts).rename_axis("size")


def kept_costs(each: dict[str, TrainConfig], path: Path) -> pd.DataFrame:
    """`measure_costs`, stored in the file `path`: a resumed comparison must plan its minutes with the same costs."""
    parts = ("arch", "image_size", "batch_size", "precision", "layout", "device")
    about = {name: ", ".join(f"{part} {getattr(config, part)}" for part in parts) for name, config in each.items()}
    with one_process(path.with_suffix(".lock"), "measuring costs"):  # measurements must not overlap
        known = read_json(path)
        missing = {about[name]: config for name, config in each.items() if about[name] not in known}
        for which, config in bar(missing.items(), desc="costs", unit=" models", leave=False):
            known[which] = measure_costs(config)
            write_json(path, known)
    return pd.DataFrame({name: known[about[name]] for name in each}).T


def _is_finished(config: TrainConfig, folder: Path, entries: pd.DataFrame, test: pd.DataFrame) -> bool:
    """Whether the folder has this member's predictions; one of another member is moved aside."""
    parts = [entries[entries["part"] == part] for part in ("train", "val")]
    asked, path = identity(config, *parts, test), folder / "member.json"
    if differing(read_json(path), asked):
        set_aside(folder)
    if not (folder / _TESTED).is_file():
        write_json(path, asked)
    return (folder / _TESTED).is_file()


def _train(members: list[tuple[TrainConfig, Path]], entries, images, test: pd.DataFrame, jobs: int) -> None:
    # with one worker joblib would train in this process, with all threads
    workers = 1 if jobs == 1 else max(2, min(jobs or joblib.cpu_count(), len(members)))
    with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
        parallel = joblib.Parallel(return_as="generator_unordered", max_nbytes=None)  # None: needs no /dev/shm
        each = (joblib.delayed(_train_member)(*member, entries, images, test, workers == 1) for member in members)
        try:
            list(bar(parallel(each), len(members) > 1, total=len(members), desc="trainings", unit=" trainings"))
        except BrokenProcessPool:
            raise InputError("a process that trained was killed, often because memory ran out; expected room for "
                             f"{workers} at once: lower jobs; finished trainings are kept") from None  # fmt: skip


def _train_member(config: TrainConfig, folder: Path, entries, images, test: pd.DataFrame, progress: bool) -> None:
    fit(config, entries, images, folder, progress, familiarity=False)
    model = model_from_checkpoint(load_checkpoint(folder / "model_best.pth")).to(pick_device(config.device))
    predict(model, make_dataset(test, images, config.image_size)).save(folder / _TESTED)
    (folder / "model_last.pth").unlink(missing_ok=True)  # not needed; half a gigabyte for VGG16


def _drawn(results: Results, replicates: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Macro AUROC: means over seeds on drawn patients (replicates, candidates), and (candidates, seeds); patients."""
    flat, seeds = [one for each in results.values() for one in each], len(next(iter(results.values())))
    same = (np.array_equal(one.image, flat[0].image) and np.array_equal(one.labels, flat[0].labels) for one in flat)
    if any(len(each) != seeds for each in results.values()) or not all(same):
        raise InputError("the candidates have different seeds, test images or labels; expected the same for all")
    drawn = bootstrap(*flat, metrics=["auroc"], replicates=replicates, seed=seed)
    macro = [replicates_with_macro(one.replicates["auroc"], one.point["auroc"])[:, -1] for one in drawn]
    each = np.reshape([with_macro(one.point["auroc"])[-1] for one in drawn], (len(results), seeds))
    return np.reshape(macro, (len(results), seeds, -1)).mean(axis=1).T, each, count_patients(flat[0])[1][-1]


def _with_seeds(drawn: np.ndarray, each: np.ndarray, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals (2, k) of means over seeds, and two-sided p (k,) of their being 0: for new patients and trainings.

    drawn: (replicates, k) means over the seeds on drawn patients. each: (k, seeds). Both variances reach as far as
    Student's t says; the mean as far as the root of the sum of squares (MOVER, Zou & Donner 2008, Stat. Med. 27).
    """
    point, seeds = each.mean(axis=1), each.shape[1]
    of_patients = drawn.std(axis=0, ddof=1)
    of_seeds = each.std(axis=1, ddof=1) / math.sqrt(seeds) if seeds > 1 else np.zeros(len(point))

    def reach(level: np.ndarray | float) -> np.ndarray:  # NaN for a single patient
        t = stdtrit(patients - 1, level / 2), stdtrit(max(seeds - 1, 1), level / 2)
        return np.hypot(t[0] * of_patients, t[1] * of_seeds)

    half, p, above = reach(0.05), np.zeros(len(point)), np.ones(len(point))
    for _ in range(60):  # bisection for the level at which the interval ends at 0
        middle = (p + above) / 2
        inside = reach(middle) >= abs(point)
        p, above = np.where(inside, middle, p), np.where(inside, above, middle)
    return np.stack([point - half, point + half]), np.where(np.isnan(half), np.nan, p)
