"""The parameters of a phantom data set, declared once; loads nothing that draws."""

from typing import Literal

from pydantic import Field

from cxrlib.core.config import Config

PREVALENCES = ("teaching", "nih")


class PhantomConfig(Config):
    """What decides the bytes of a set, and `workers`, which does not."""

    n_patients: int = Field(500, ge=1, description="500 patients have about 1,600 images")
    size: int = Field(256, ge=64, description="pixels per side of the images, which are 8-bit grey")
    seed: int = Field(0, ge=0, description="the same seed gives the same bytes")
    prevalence: Literal[PREVALENCES] = Field(
        "teaching", description="teaching (each split of a small set has every finding), or nih, as in ChestX-ray14"
    )
    label_noise: bool = Field(True, description="whether the mined labels contain errors")
    workers: int = Field(0, ge=0, exclude=True, description="processes; 0 for one per core")
