"""The parameters of a phantom data set, declared once; loads nothing that draws."""

from typing import Literal

from pydantic import Field

from cxrlib.core.config import Config


class PhantomConfig(Config):
    """What decides the bytes of a set, and `workers`, which does not; data/README.md tells what the choices mean."""

    n_patients: int = Field(1000, ge=1, le=100_000, description="1,000 patients have about 2,400 images")
    size: int = Field(256, ge=64, le=4096, description="pixels per side of the images, which are 8-bit grey")
    seed: int = Field(0, ge=0, description="the same seed gives the same bytes")
    prevalence: Literal["teaching", "nih"] = Field("teaching", description="teaching (enough of each finding) or nih")
    hospital: Literal["first", "second"] = Field("first", description="second: another machine and other patients")
    label_noise: bool = Field(True, description="whether the mined labels contain errors")
    workers: int = Field(0, ge=0, exclude=True, description="processes; 0 for one per core")
