"""What several commands open: the data set, its decoded images, a checkpoint and what was held out from it."""

from pathlib import Path

import pandas as pd

from cxrlib.cli import processes
from cxrlib.core.errors import InputError, some
from cxrlib.course.config import DataConfig
from cxrlib.course.opening import Data, open_data
from cxrlib.course.runs import RunFolder
from cxrlib.data.cache import ImageCache, build_cache
from cxrlib.data.external import open_external
from cxrlib.data.metadata import read_csv
from cxrlib.data.splits import restore, subsets
from cxrlib.evaluation.calibration import Calibrator, operating_points
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.protocol import numbered
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.models.architectures import ChestXrayModel, build_model, model_from_checkpoint
from cxrlib.models.checkpoints import Ensemble
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import pick_device
from cxrlib.training.inference import predict
from cxrlib.training.inputs import datasets, make_dataset, parts_to_remember
from cxrlib.training.optimization import strengthen_dropout


def given_root(options: DataConfig) -> Path:
    """The folder of the radiographs. Raises InputError where none is given."""
    if not options.img_root:
        raise InputError("img_root is not given; expected the folder of the radiographs, such as --img_root data/raw")
    return Path(options.img_root).absolute()


def data_of(options: DataConfig) -> Data:
    """Open the data set and print what it holds; a labels.csv is read as `data.external` does, its gaps as unknown.

    Raises InputError where no folder is given.
    """
    csv_path, img_root = Path(options.csv_path).absolute() if options.csv_path else "", given_root(options)
    table = csv_path or img_root / "labels.csv"
    if table.name == "labels.csv" and table.is_file() and "Finding Labels" not in read_csv(table):
        entries, images, said = open_external(img_root, table)  # a column per finding, whose cells may be empty
        data = Data(entries, images, table, img_root, said)
    else:
        data = open_data(csv_path, img_root)
    print(data.summary)
    return data


def images_of(options: DataConfig, data: Data, image_size: int, names: list[str], out: str = "") -> ImageCache:
    """The cache with these images; images that are left out (on_bad_image) are recorded in run.json of `out`."""
    cache = build_cache(data.images, image_size, names, options.cache_dir, on_bad_image=options.on_bad_image)
    if cache.bad and out:
        stage = type(options).__name__.removesuffix("Options").lower()
        RunFolder(Path(out).absolute()).record(stage, on_bad_image="skip", left_out=cache.bad)
    return cache


def held_out(options, ensemble: Ensemble, data: Data, needed=("val", "test")) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Validation and test entries by what the checkpoints remember, each reduced to its subset.

    Raises InputError where a part that is `needed` has no image.
    """
    config = ensemble.config
    entries = restore(data.entries, ensemble.parts, config["split"], data.folders)
    if "val" not in needed and config["split"] != "official" and (entries["part"] == "").all():
        # no metric of a split is computed, and neither an image nor a patient is one that a model was trained on
        entries = entries.assign(part="test")
        print(f"{ensemble.name} knows none of these images and patients; all of them count as test images")
    other = entries[entries["part"] == ""]
    if len(other):
        whose = f"{len(other):,} images of {other['patient'].nunique():,} patients ({some(other['image'], 3)})"
        print(f"left out: {whose}, which are in no part of the {config['split']} split of {ensemble.name}")
    used = subsets(entries, val=config["val_subset"] * ("val" in needed), test=options.subset, seed=config["seed"])
    parts = {part: used[used["part"] == part] for part in ("val", "test")}
    for part in needed:
        if parts[part].empty:
            name = "validation" if part == "val" else part
            raise InputError(
                f"{options.csv_path or options.img_root} holds no image of the {name} part of {ensemble.name} (split "
                f"{config['split']}, seed {config['seed']}); give the data set that it was trained from"
            )
    return parts["val"], parts["test"]


def operating_point_of(options, ensemble: Ensemble) -> tuple[tuple[Calibrator, ...], Thresholds | None]:
    """Calibrators and thresholds (or None, which is said) of the checkpoints, or of the file `options.thresholds`."""
    calibrations, tuned = ensemble.calibrations, ensemble.thresholds
    if options.thresholds:
        path = Path(options.thresholds)
        beside = [path.with_name(f"calibration{number}.json") for number in numbered(len(calibrations))]
        if all(file.is_file() for file in beside):
            calibrations = [Calibrator.load(file).to_dict() for file in beside]
        tuned = Thresholds.load(path).to_dict()
    elif tuned is None:
        print(f"{ensemble.name} holds no thresholds; cxr eval writes them, for --thresholds, or with "
              "--update_checkpoint into the checkpoint")  # fmt: skip
    return operating_points(calibrations, tuned)


def models_of(options, ensemble: Ensemble) -> list[ChestXrayModel]:
    """The trained models on the device asked for."""
    device = pick_device(options.device)
    return [model_from_checkpoint(checkpoint).to(device) for checkpoint in ensemble.members.values()]


def images_for(options, models: list[ChestXrayModel], data: Data, names: list[str]) -> list[ImageCache]:
    """The cache with these images at the size of each model (`images_of`)."""
    sizes = dict.fromkeys(model.image_size for model in models)
    caches = {size: images_of(options, data, size, names, options.out) for size in sizes}
    return [caches[model.image_size] for model in models]


def predictions_of(
    options, models: list[ChestXrayModel], caches: list[ImageCache], entries: pd.DataFrame, together=None
) -> list[Predictions]:
    """What each model predicts for the entries. together: the Accelerator of several processes."""
    how = {"num_workers": options.num_workers, "progress": processes.is_first()}
    return [predict(model, make_dataset(entries, images, images.image_size), options.batch_size, together, **how)
            for model, images in zip(models, caches, strict=True)]  # fmt: skip


def check_training(config: TrainConfig, entries: pd.DataFrame, data: Data) -> None:
    """Raise InputError, before anything is decoded, for a model, a start or parts that `fit` would refuse."""
    if config.weights != "none" or config.drop_strength != 1:
        model = build_model(config.arch, config.weights, config.image_size)
        strengthen_dropout(model, config.drop_strength)
    parts_to_remember(config, entries)
    datasets(config, entries, data.images)
