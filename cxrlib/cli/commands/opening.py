"""What several commands open: the data set, its decoded images, a checkpoint and what was held out from it."""

from pathlib import Path

import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.course.config import DataConfig
from cxrlib.course.opening import Data, open_data
from cxrlib.course.runs import RunFolder
from cxrlib.data.cache import ImageCache, build_cache
from cxrlib.data.splits import restore, subsets
from cxrlib.evaluation.calibration import Calibrator, operating_point
from cxrlib.evaluation.thresholds import Thresholds
from cxrlib.models.architectures import ChestXrayModel, build_model, model_from_checkpoint
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import pick_device
from cxrlib.training.optimization import strengthen_dropout


def given_root(options: DataConfig) -> Path:
    """The folder of the radiographs. Raises InputError where none is given."""
    if not options.img_root:
        raise InputError("img_root is not given; expected the folder of the radiographs, such as --img_root data/raw")
    return Path(options.img_root).absolute()


def data_of(options: DataConfig) -> Data:
    """Open the data set and print what it holds. Raises InputError where no folder is given."""
    csv_path = Path(options.csv_path).absolute() if options.csv_path else ""
    data = open_data(csv_path, given_root(options))
    print(data.summary)
    return data


def images_of(options: DataConfig, data: Data, image_size: int, names: list[str], out: str = "") -> ImageCache:
    """The cache with these images; images that are left out (on_bad_image) are recorded in run.json of `out`."""
    cache = build_cache(data.images, image_size, names, options.cache_dir, on_bad_image=options.on_bad_image)
    if cache.bad and out:
        stage = type(options).__name__.removesuffix("Options").lower()
        RunFolder(Path(out).absolute()).record(stage, on_bad_image="skip", left_out=cache.bad)
    return cache


def held_out(options, checkpoint: dict, data: Data, needed=("val", "test")) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Validation and test entries by what the checkpoint remembers, each reduced to its subset.

    Raises InputError where a part that is `needed` has no image.
    """
    config = checkpoint["config"]
    entries = restore(data.entries, checkpoint["parts"], config["split"], data.folders)
    if "val" not in needed and config["split"] != "official" and (entries["part"] == "").all():
        # no metric of a split is computed, and neither an image nor a patient is one that the model was trained on
        entries = entries.assign(part="test")
        print(f"{options.weights} knows none of these images and patients; all of them count as test images")
    other = entries[entries["part"] == ""]
    if len(other):
        whose = f"{len(other):,} images of {other['patient'].nunique():,} patients ({some(other['image'], 3)})"
        print(f"left out: {whose}, which are in no part of the {config['split']} split of {options.weights}")
    used = subsets(entries, val=config["val_subset"] * ("val" in needed), test=options.subset, seed=config["seed"])
    parts = {part: used[used["part"] == part] for part in ("val", "test")}
    for part in needed:
        if parts[part].empty:
            name = "validation" if part == "val" else part
            raise InputError(
                f"{options.csv_path or options.img_root} holds no image of the {name} part of {options.weights} (split "
                f"{config['split']}, seed {config['seed']}); give the data set that it was trained from"
            )
    return parts["val"], parts["test"]


def operating_point_of(options, checkpoint: dict) -> tuple[Calibrator, Thresholds | None]:
    """Calibrator and thresholds (or None, which is said) of a checkpoint, or those of the file `options.thresholds`."""
    if options.thresholds:
        path = Path(options.thresholds)
        beside = path.with_name("calibration.json")
        calibration = Calibrator.load(beside).to_dict() if beside.is_file() else checkpoint.get("calibration")
        checkpoint = {"thresholds": Thresholds.load(path).to_dict(), "calibration": calibration}
    elif checkpoint.get("thresholds") is None:
        print(f"{options.weights} holds no thresholds; cxr eval writes them, for --thresholds, or with "
              "--update_checkpoint into the checkpoint")  # fmt: skip
    return operating_point(checkpoint)


def model_of(options, checkpoint: dict) -> ChestXrayModel:
    """The trained model on the device asked for."""
    return model_from_checkpoint(checkpoint).to(pick_device(options.device))


def check_model(config: TrainConfig) -> None:
    """Raise InputError, before anything is decoded, for weights or a dropout that cannot be had, or a wrong size."""
    if config.weights != "none" or config.drop_strength != 1:
        model = build_model(config.arch, config.weights, config.image_size)
        strengthen_dropout(model, config.drop_strength)
