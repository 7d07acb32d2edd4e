"""The parameters of a phantom data set, declared once; loads nothing that draws."""

from typing import Literal

from pydantic import Field

from cxrlib.core.config import Config

PREVALENCES = ("teaching", "nih")
HOSPITALS = ("first", "second")


class PhantomConfig(Config):
    """What decides the bytes of a set, and `workers`, which does not.

    The second hospital is for external validation. Its machine is noisier and less sharp, enhances edges less and shows
    the lungs brighter and the mediastinum darker (`film.MACHINES`); most of its films have a border, and the side
    marker is a dark letter on a bright plate. Its patients, with names of their own, have emphysema, fibrosis, nodules
    and masses more often and a ward's findings less often (`findings.csv`), hence fewer visits and AP films.
    Anatomy, signs and errors of the labels follow the same rules in both.
    """

    n_patients: int = Field(1000, ge=1, le=100_000, description="1,000 patients have about 2,400 images")
    size: int = Field(256, ge=64, le=4096, description="pixels per side of the images, which are 8-bit grey")
    seed: int = Field(0, ge=0, description="the same seed gives the same bytes")
    prevalence: Literal[PREVALENCES] = Field(
        "teaching", description="teaching (each split of a small set has every finding), or nih, as in ChestX-ray14"
    )
    hospital: Literal[HOSPITALS] = Field("first", description="first, or second: another machine and other patients")
    label_noise: bool = Field(True, description="whether the mined labels contain errors")
    workers: int = Field(0, ge=0, exclude=True, description="processes; 0 for one per core")
