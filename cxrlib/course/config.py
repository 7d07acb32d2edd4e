"""The parameters of the course besides those of a training, declared once for notebooks, profiles and commands."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from cxrlib.core.config import Archs, Config, Place
from cxrlib.models.names import SUFFIXES
from cxrlib.training.config import TrainConfig

CALIBRATE = ("auto", "none", "platt", "temperature", "isotonic")


class FilesConfig(Config):
    """Where the radiographs and their table are."""

    csv_path: Place = Field("", description="Data_Entry_2017*.csv or sample_labels.csv; default: the one in img_root")
    img_root: Place = Field("", description="folder of the radiographs, in any layout: images_001/images/, flat, ...")


class DataConfig(FilesConfig):
    """Which radiographs a notebook or a command reads."""

    on_bad_image: Literal["error", "skip"] = Field("error", description="error, or skip what cannot be decoded")


class CourseConfig(TrainConfig, DataConfig):
    """Every parameter that a notebook may have; its `parameters` cell holds the default."""

    run_dir: Place = Field("runs/quick", description="folder of the run")
    test_subset: int = Field(0, ge=0, description="approximate number of test images; 0 for all")
    archs: Archs = Field([], description="architectures to compare, such as resnet18,vgg16:imagenet; empty for all")
    compare_weights: Place = Field("none", description="where the compared networks start")
    compare_image_size: int = Field(64, ge=32, le=4096, description="pixels per side in the comparison")
    compare_budget: str = Field("epochs=4", description="epochs=2, steps=200 or minutes=3, the same for all")
    compare_seeds: int = Field(2, ge=1, description="trainings per architecture, with seeds from `seed` on")
    compare_train_subset: int = Field(1200, ge=0, description="approximate number of training images; 0 for all")
    compare_lr: float = Field(1e-3, gt=0, description="peak learning rate in the comparison")
    compare_batch_size: int = Field(16, ge=2, description="images per step in the comparison")
    compare_jobs: int = Field(0, ge=0, description="trainings at once on a CPU, one thread each; 0 is one per core")
    calibrate: Literal[CALIBRATE] = Field("auto", description=", ".join(CALIBRATE))
    objective: str = Field("f1", description="what a threshold maximizes on validation")
    threshold_min: float = Field(0.05, description="first value of the threshold grid")
    threshold_max: float = Field(0.4, description="last value of the threshold grid")
    threshold_step: float = Field(0.05, description="step of the threshold grid")
    replicates: int = Field(1000, ge=0, description="bootstrap replicates")
    samples: int = Field(8, ge=1, description="radiographs per figure")


def with_paths(values: dict, absolute: Callable[[str], object]) -> dict:
    """Parameters of `CourseConfig` whose paths, those in weights and in resnet18:weights.pth too, are made absolute."""

    def one(name: str, value: str | list) -> str | list:
        if isinstance(value, list):
            return [one(name, each) for each in value]
        before, colon, path = value.partition(":") if name == "archs" else ("", "", value)
        is_path = path and (name in ("run_dir", "img_root", "csv_path") or path.endswith(SUFFIXES))
        return f"{before}{colon}{absolute(path)}" if is_path else value

    of_paths = {"run_dir", "img_root", "csv_path", "weights", "compare_weights", "archs"}
    return {name: one(name, value) if name in of_paths else value for name, value in values.items()}
