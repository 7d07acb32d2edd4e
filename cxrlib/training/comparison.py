"""Several architectures on one protocol: the same images, one budget, several seeds; who is better, and for how much.

A member is one training of one candidate with one seed. Its parameters are written into its folder, so that a stopped
comparison continues where it was, and a finished member is not trained again.
"""

import json
import math
import re
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.core.errors import InputError, nearest, some
from cxrlib.core.paths import one_process, write_json, write_text
from cxrlib.data.cache import ImageCache
from cxrlib.data.splits import digest, subset
from cxrlib.evaluation.bootstrap import count_patients, interval, p_values, with_macro
from cxrlib.evaluation.differences import holm
from cxrlib.evaluation.metrics import bootstrap, point_estimates
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import ARCHITECTURES, model_from_checkpoint
from cxrlib.models.checkpoints import load_checkpoint
from cxrlib.training.config import TrainConfig
from cxrlib.training.costs import measure_costs
from cxrlib.training.device import pick_device
from cxrlib.training.inference import predict
from cxrlib.training.inputs import make_dataset
from cxrlib.training.loop import fit
from cxrlib.training.resume import with_defaults

UNITS = ("epochs", "steps", "minutes")
Results = dict[str, list[Predictions]]


def candidates(archs: Iterable[str], config: TrainConfig) -> dict[str, TrainConfig]:
    """{name: config} of who takes part: "resnet18", or "efficientnet_lite0:imagenet" to start one from other weights.

    archs: empty for all architectures. config: what is the same for all. Raises InputError for an unknown one.
    """
    each = {}
    for name in archs or ARCHITECTURES:
        arch, _, weights = name.partition(":")
        each[name] = config.replace(arch=arch, weights=weights or config.weights)
    return each


def parse_budget(budget: str) -> tuple[str, float]:
    """("steps", 200) of "steps=200". Raises InputError for what is no budget."""
    unit, _, amount = budget.replace(" ", "").partition("=")
    if unit not in UNITS:
        raise InputError(f"budget {budget!r} cannot be read; expected epochs=2, steps=200 or minutes=3"
                         f"{nearest(unit, UNITS)}")  # fmt: skip
    try:
        value = float(amount) if unit == "minutes" else int(amount)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"budget {budget!r} cannot be read; expected {unit}= and a "
                         f"{'number' if unit == 'minutes' else 'whole number'} above 0")  # fmt: skip
    return unit, value


def with_budget(
    each: dict[str, TrainConfig], budget: str, train: int, val: int, costs: pd.DataFrame | None = None
) -> dict[str, TrainConfig]:
    """The configs with the epochs that the budget allows; where it is not enough for one, with fewer training images.

    budget: "epochs=2"; "steps=200", the same for all and so the same images; or "minutes=3", in which a fast network
    sees more of them, by the images a second of `costs` (`measure_costs`). Whole epochs, at least one.
    train, val: images of the parts, of which config.train_subset and val_subset may take fewer.
    """
    unit, amount = parse_budget(budget)
    if unit == "epochs":
        return {name: config.replace(epochs=int(amount)) for name, config in each.items()}
    planned = {}
    for name, config in each.items():
        images = min(train, config.train_subset or train)
        if unit == "steps":
            seen = amount * config.batch_size
            epochs = seen / (math.ceil(images / config.batch_size) * config.batch_size)
        else:
            speed = costs.loc[name]
            evaluation = min(val, config.val_subset or val) / speed["images_per_s"]
            seen = max((60 * amount - evaluation) * speed["train_images_per_s"], 2 * config.batch_size)
            epochs = 60 * amount / (images / speed["train_images_per_s"] + evaluation)
        enough = epochs >= 1
        planned[name] = config.replace(epochs=max(1, round(epochs) if unit == "steps" else int(epochs)),
                                train_subset=config.train_subset if enough else int(seen))  # fmt: skip
    return planned


def compare(
    each: dict[str, TrainConfig],
    seeds: Iterable[int],
    entries: pd.DataFrame,
    images: ImageCache | dict[str, Path],
    test: pd.DataFrame,
    out: str | Path,
    progress: bool = True,
) -> Results:
    """Train every candidate with every seed, predict the test entries, and return {name: predictions, one a seed}.

    The checkpoint chosen on validation predicts. out: gets NAME/seedN/ with the files of `fit` and
    predictions_test.npz. A finished member is read, an interrupted one goes on; one that was asked for otherwise (other
    parameters, other images) is trained anew.
    """
    seeds = list(seeds)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds {some(seeds, 10)} name one more than once; expected each once: it would count twice")
    if not each or not seeds:
        raise InputError("nobody takes part in the comparison; expected at least one architecture and one seed")
    return {
        name: [_member(config.replace(seed=seed, resume=True), entries, images, test, member_folder(out, name, seed),
                       progress) for seed in seeds]
        for name, config in each.items()
    }  # fmt: skip


def member_folder(out: str | Path, name: str, seed: int) -> Path:
    """Where a member keeps its files; what a folder cannot be called becomes a dash."""
    return Path(out) / _plain(name) / f"seed{seed}"


def minutes(out: str | Path, names: Iterable[str], seeds: Iterable[int]) -> dict[str, float]:
    """Minutes of training and validation, the mean over the seeds, by name."""
    seeds = list(seeds)
    paths = {name: [member_folder(out, name, seed) / "history.csv" for seed in seeds] for name in names}
    return {name: float(np.mean([pd.read_csv(path)["seconds"].sum() for path in each])) / 60
            for name, each in paths.items()}  # fmt: skip


def comparison_table(results: Results, replicates: int = 2000, seed: int = 0) -> pd.DataFrame:
    """One row a candidate: auroc (macro on test, mean over the seeds), auroc_low, auroc_high, seed_sd, seeds.

    The interval covers the patients of the test part and, from two seeds on, the seeds: a replicate draws both anew.
    seed_sd: standard deviation over the seeds, NaN for one.
    """
    drawn, point, scarcest = _drawn(results, replicates, seed)
    low, high = interval(drawn, point, np.full(len(point), scarcest))
    each = [_macro(predictions) for predictions in results.values()]
    table = pd.DataFrame({"auroc": point, "auroc_low": low, "auroc_high": high}, index=pd.Index(results, name="arch"))
    table["seed_sd"] = [np.std(values, ddof=1) if len(values) > 1 else np.nan for values in each]
    return table.assign(seeds=[len(values) for values in each])


def all_differences(results: Results, replicates: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Macro AUROC of one candidate minus that of another, every pair, the better one first; paired by patient and seed.

    Columns: a, b, difference, low, high, p (two-sided, of the replicates), p_holm (corrected for looking at all pairs).
    """
    drawn, point, scarcest = _drawn(results, replicates, seed)
    names = list(results)
    order = sorted(range(len(names)), key=lambda place: -point[place])
    pairs = list(combinations(order, 2))
    one, two = (np.array([pair[side] for pair in pairs], dtype=int) for side in (0, 1))
    replicate = drawn[:, one] - drawn[:, two]
    difference = point[one] - point[two]
    patients = np.full(len(pairs), scarcest)
    low, high = interval(replicate, difference, patients)
    p = p_values(replicate, patients)
    columns = {"a": [names[i] for i in one], "b": [names[i] for i in two], "difference": difference}
    return pd.DataFrame(columns | {"low": low, "high": high, "p": p, "p_holm": holm(p)})


def learning_curve(
    config: TrainConfig,
    sizes: Iterable[int],
    seeds: Iterable[int],
    entries: pd.DataFrame,
    images: ImageCache | dict[str, Path],
    test: pd.DataFrame,
    out: str | Path,
) -> pd.DataFrame:
    """How many images a model needs: the table of `comparison_table`, one row a size, with the column images.

    sizes: about so many training images; 0 is all. The subsets of a seed are nested, so a larger one only adds; each
    seed draws others. `images` is how many they are in the mean.
    """
    seeds = list(seeds)
    each = {str(size): config.replace(train_subset=size) for size in sizes}
    results = compare(each, seeds, entries, images, test, out)
    table = comparison_table(results, 1000, config.seed)
    counts = {name: np.mean([len(subset(entries, "train", one.train_subset, seed)) for seed in seeds])
              for name, one in each.items()}  # fmt: skip
    return table.assign(images=counts).rename_axis("size")


def kept_costs(each: dict[str, TrainConfig], path: Path, progress: bool = True) -> pd.DataFrame:
    """`measure_costs`, measured once: what the file `path` holds of these configs is read.

    A budget in minutes is planned by them, and a comparison that goes on must meet the plan that it began with.
    """
    parts = ("arch", "image_size", "batch_size", "precision", "layout", "device")
    about = {name: ", ".join(f"{part} {getattr(config, part)}" for part in parts) for name, config in each.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_process(path.with_suffix(".lock"), "measuring costs"):  # two at once would measure each other
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        missing = {about[name]: config for name, config in each.items() if about[name] not in known}
        for which, config in missing.items():
            known |= measure_costs({which: config}, progress).T.to_dict()
            write_text(path, json.dumps(known, indent=1))  # memory is NaN on Windows, which write_json refuses
    return pd.DataFrame({name: known[about[name]] for name in each}).T


def _member(config: TrainConfig, entries, images, test: pd.DataFrame, folder: Path, progress: bool) -> Predictions:
    asked, path = _asked(config, entries, test), folder / "member.json"
    if path.is_file() and with_defaults(json.loads(path.read_text(encoding="utf-8"))) != with_defaults(asked):
        for name in ("model_best.pth", "model_last.pth", "state.pth", "history.csv", "predictions_test.npz"):
            (folder / name).unlink(missing_ok=True)
    if not (folder / "predictions_test.npz").is_file():
        write_json(path, asked)
        fit(config, entries, images, folder, progress)
        model = model_from_checkpoint(load_checkpoint(folder / "model_best.pth")).to(pick_device(config.device))
        predict(model, make_dataset(test, images, config.image_size)).save(folder / "predictions_test.npz")
        (folder / "model_last.pth").unlink(missing_ok=True)  # half a gigabyte of VGG16 that nothing reads
    return Predictions.load(folder / "predictions_test.npz")


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _asked(config: TrainConfig, entries: pd.DataFrame, test: pd.DataFrame) -> dict:
    """All that the result of a member depends on."""
    parts = [entries[entries["part"] == part] for part in ("train", "val")]
    return {"images": digest(*parts, test)} | config.identity


def _macro(predictions: list[Predictions]) -> np.ndarray:
    return np.array([with_macro(point_estimates(one)["auroc"])[-1] for one in predictions])


def _drawn(results: Results, replicates: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Macro AUROC of each candidate in draws of patients and seeds, (replicates, candidates); of the data; and how many
    patients bear the scarcer class. Every candidate gets the same patients and seeds in a draw.
    """
    counts = {len(each) for each in results.values()}
    if len(counts) != 1:
        raise InputError(
            f"the candidates have {sorted(counts)} seeds; expected the same seeds for all, so that they pair"
        )
    [seeds] = counts
    flat = [one for each in results.values() for one in each]
    for other in flat[1:]:
        if not np.array_equal(other.image, flat[0].image) or not np.array_equal(other.labels, flat[0].labels):
            raise InputError("the candidates were tested on different images or labels; expected the same for all")
    drawn = bootstrap(*flat, metrics=["auroc"], replicates=replicates, seed=seed)
    macro = np.stack([with_macro(one["auroc"], ~np.isnan(point_estimates(of)["auroc"]))[:, -1]
                      for one, of in zip(drawn, flat, strict=True)], axis=1)  # fmt: skip
    macro = macro.reshape(len(macro), len(results), seeds)
    times = np.random.default_rng(seed).multinomial(seeds, np.full(seeds, 1 / seeds), size=len(macro))
    # so few draws would show a variance (seeds - 1) / seeds times the true one
    weights = 1 + (times - 1) * math.sqrt(seeds / max(seeds - 1, 1))
    point = np.array([_macro(each).mean() for each in results.values()])
    return np.einsum("res,rs->re", macro, weights) / seeds, point, count_patients(flat[0])[1][-1]
