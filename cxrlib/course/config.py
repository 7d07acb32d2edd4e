"""The parameters of the course besides those of a training, declared once for notebooks, profiles and commands."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cxrlib.core.config import Config
from cxrlib.training.config import TrainConfig

CALIBRATE = ("auto", "none", "platt", "temperature", "isotonic")


def _listed(value):
    """The items of "a,b", which is how a command line gives a list."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed)]
Numbers = Annotated[list[int], BeforeValidator(_listed)]


class DataConfig(Config):
    """Which radiographs a notebook or a command reads."""

    csv_path: str = Field("", description="Data_Entry_2017*.csv or sample_labels.csv; default: the one in img_root")
    img_root: str = Field(
        "", description="folder of the radiographs, in any layout: images_001/images/, sample/images/, flat, ..."
    )
    on_bad_image: Literal["error", "skip"] = Field(
        "error", description="error, or skip: leave out, count and name images that cannot be decoded"
    )


class CourseConfig(TrainConfig, DataConfig):
    """Every parameter that a notebook may have; its `parameters` cell holds the default."""

    run_dir: str = Field("runs/quick", description="folder of the run")
    test_subset: int = Field(0, ge=0, description="approximate number of test images; 0 for all")
    archs: Names = Field([], description="architectures to compare, such as resnet18,vgg16:imagenet; empty for all")
    compare_weights: str = Field("none", description="where the compared networks start")
    compare_image_size: int = Field(64, ge=32, description="pixels per side in the comparison")
    compare_budget: str = Field("epochs=4", description="epochs=2, steps=200 or minutes=3, the same for all")
    compare_seeds: int = Field(2, ge=1, description="trainings per architecture, with seeds from `seed` on")
    compare_train_subset: int = Field(1200, ge=0, description="approximate number of training images; 0 for all")
    compare_lr: float = Field(3e-3, gt=0, description="peak learning rate in the comparison")
    compare_batch_size: int = Field(16, ge=2, description="images per step in the comparison")
    calibrate: Literal[CALIBRATE] = Field("auto", description=", ".join(CALIBRATE))
    objective: str = Field("f1", description="what a threshold maximizes on validation")
    threshold_min: float = Field(0.05, description="first value of the threshold grid")
    threshold_max: float = Field(0.4, description="last value of the threshold grid")
    threshold_step: float = Field(0.05, description="step of the threshold grid")
    replicates: int = Field(1000, ge=0, description="bootstrap replicates")
    samples: int = Field(8, ge=1, description="radiographs per figure")
