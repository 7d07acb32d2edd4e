"""What several commands open: the data set, its decoded images, a checkpoint and what was held out from it."""

import os
from pathlib import Path

import pandas as pd

from cxrlib.cli import processes
from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import CACHE
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
from cxrlib.models.ensembles import Ensemble
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import pick_device
from cxrlib.training.inference import predict
from cxrlib.training.inputs import make_dataset
from cxrlib.training.optimization import strengthen_dropout


def data_of(options: DataConfig) -> Data:
    """Open the data set and print what it holds; a labels.csv is read as `data.external` does, its gaps as unknown.

    Raises InputError where no folder is given.
    """
    if not options.img_root:
        raise InputError("img_root is not given; expected the folder of the radiographs, such as --img_root data/raw")
    csv_path, img_root = (Path(path).absolute() if path else "" for path in (options.csv_path, options.img_root))
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
    cache = build_cache(data.images, image_size, names, options.cache_dir or CACHE, on_bad_image=options.on_bad_image)
    if cache.bad and out:
        stage = type(options).__name__.removesuffix("Options").lower()
        RunFolder(Path(out).absolute()).record(stage, on_bad_image="skip", left_out=cache.bad)
    return cache


def held_out(options, ensemble: Ensemble, data: Data) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Validation and test entries by what the checkpoints remember, each reduced to its subset."""
    config = ensemble.config
    entries = restore(data.entries, ensemble.parts, config["split"], data.folders)
    other = entries[entries["part"] == ""]
    if len(other):
        whose = f"{len(other):,} images of {other['patient'].nunique():,} patients ({some(other['image'], 3)})"
        print(f"left out: {whose}, which are in no part of the {config['split']} split of {ensemble.name}")
    used = subsets(entries, val=config["val_subset"], test=options.subset, seed=config["seed"])
    val, test = (used[used["part"] == part] for part in ("val", "test"))
    for part, chosen in (("validation", val), ("test", test)):
        if chosen.empty:
            raise InputError(
                f"{options.csv_path or options.img_root} holds no image of the {part} part of {ensemble.name} (split "
                f"{config['split']}, seed {config['seed']}); give the data set that it was trained from"
            )
    return val, test


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


def check_model(config: TrainConfig) -> None:
    """Raise InputError, before anything is decoded, for weights or a dropout that cannot be had, or a wrong size."""
    if config.weights != "none" or config.drop_strength != 1:
        model = build_model(config.arch, config.weights, config.image_size)
        strengthen_dropout(model, config.drop_strength)


def check_writable(folder: str | Path) -> None:
    """Raise InputError where results could not be written in the end; makes nothing."""
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        found = "read-only" if there.is_dir() else "a file"
        raise InputError(f"{folder} cannot be written ({there} is {found}); choose another folder")
