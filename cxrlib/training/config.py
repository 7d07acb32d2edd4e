"""Every parameter of a training run, declared once; nothing here loads torch, so that `--help` answers at once."""

from typing import Literal

from pydantic import Field, model_validator

from cxrlib.core.config import Config, Place
from cxrlib.models.names import ARCHS, check_image_size

LOSSES = ("bce", "bce_pos_weight", "focal", "asymmetric")
SPLITS = ("official", "patient", "image")
DEVICES = ("auto", "cpu", "cuda", "mps")


class TrainConfig(Config):
    """Every parameter of a training run."""

    arch: Literal[ARCHS] = Field("efficientnet_b0", description=f"architecture: {', '.join(ARCHS)}")
    weights: Place = Field("imagenet", description="where training starts: imagenet (needs no network for "
                           "efficientnet_lite0), none, a checkpoint of this project, or for densenet121 xrv-chex, "
                           "xrv-pc or xrv-mimic (trained on other hospitals' radiographs)")  # fmt: skip
    mode: Literal["full", "probe"] = Field("full", description="full, or probe: only the head, on stored features")
    image_size: int = Field(224, ge=32, le=4096, description="pixels per side")
    epochs: int = Field(8, ge=1, description="passes over the training images")
    batch_size: int = Field(32, ge=2, description="images per step; batch normalization needs two")
    lr: float = Field(3e-4, gt=0, description="peak learning rate, after a warm-up and before a cosine decay")
    head_epochs: int = Field(0, ge=0, description="epochs at the start in which only the head is trained")
    depth_lr: float = Field(1.0, gt=0, le=1, description="learning rate of the first layer, relative to the head's")
    loss: Literal[LOSSES] = Field("bce", description=", ".join(LOSSES))
    pos_weight_cap: float = Field(20.0, ge=1, description="largest weight of a positive with loss bce_pos_weight")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay, on matrices and kernels only")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps over which the learning rate rises")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="decay of the weights' moving average (EMA); 0 for none")
    augment: float = Field(1.0, ge=0, le=3, description="strength of rotations, shifts, scalings, contrast; 0 for none")
    mixup: float = Field(0.0, ge=0, le=1, description="mixing of pairs of radiographs and labels; 0 for none")
    drop_strength: float = Field(1.0, ge=0, le=5, description="strength of dropout and stochastic depth; 0 for none")
    tta: bool = Field(False, description="score each image in five positions and average (test-time augmentation)")
    patience: int = Field(0, ge=0, description="stop after this many epochs without improvement; 0 for never")
    split: Literal[SPLITS] = Field("official", description="official (NIH's lists), patient, or image (which leaks)")
    val_share: float = Field(0.1, gt=0, lt=0.8, description="share for validation, of the 0.8 that test leaves")
    train_subset: int = Field(0, ge=0, description="approximate number of training images, whole patients; 0 for all")
    val_subset: int = Field(0, ge=0, description="approximate number of validation images, whole patients; 0 for all")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of the split, subsets, weights, order and augmentation")
    num_workers: int = Field(0, ge=0, description="processes that read ahead; 0 is right with the cache")
    device: Literal[DEVICES] = Field("auto", description="auto, cpu, cuda or mps")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="fp32, bf16, or auto: the faster, as timed")
    layout: Literal["auto", "channels_last", "contiguous"] = Field("auto", description="auto/channels_last/contiguous")
    resume: bool = Field(False, description="continue an interrupted run in run_dir (a probe: fit anew)")
    save_minutes: float = Field(5.0, ge=0, description="minutes between saved states within an epoch")

    @property
    def fractions(self) -> tuple[float, float, float]:
        """The shares of train, val and test, as `splits.split` takes them."""
        return round(0.8 - self.val_share, 6), self.val_share, 0.2

    @model_validator(mode="after")
    def _fits_the_architecture(self) -> "TrainConfig":
        check_image_size(self.arch, self.image_size)
        return self
