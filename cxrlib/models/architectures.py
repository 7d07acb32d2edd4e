"""The registry of architectures (head, Grad-CAM layers, normalization), and the models of checkpoints.

Every model takes one-channel radiographs, uint8 or [0, 1], and normalizes them itself. A checkpoint contains everything
that a prediction needs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cxrlib.core.errors import InputError
from cxrlib.data.dataset import to_unit
from cxrlib.data.findings import FINDINGS
from cxrlib.models import zoo
from cxrlib.models.checkpoints import CHECKPOINT_FORMAT, load_checkpoint, write_checkpoint
from cxrlib.models.names import PATCH, SUFFIXES, check_image_size

_IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF_NORM = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # of the published EfficientNet-Lite


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    head: dotted name of the last linear layer; cam_layers: dotted names of three layers with a grid, from the finest
    (an 8th of the pixels; VGG-16 a 4th, ViT a 16th) to the last, which Grad-CAM reads; LayerCAM fuses all; norm: mean
    and std per channel; pooled: whether the head reads the average of the last grid, so that its weights make a map.
    """

    head: str
    cam_layers: tuple[str, ...]
    norm: tuple = _IMAGENET_NORM
    pooled: bool = True


ARCHITECTURES: dict[str, Architecture] = {
    "efficientnet_b0": Architecture("classifier.1", ("features.3", "features.5", "features.8")),
    "densenet121": Architecture("classifier", ("features.denseblock2", "features.denseblock3", "features")),
    "resnet18": Architecture("fc", ("layer2", "layer3", "layer4")),
    # before the last pooling: a 14 x 14 grid at 224 pixels
    "vgg16": Architecture("classifier.6", ("features.15", "features.22", "features.29"), pooled=False),
    "mobilenet_v2": Architecture("classifier.1", ("features.6", "features.13", "features.18")),
    # the input of the last attention: past it, only the class token reaches the head
    "vit_b_16": Architecture(
        "heads.head", tuple(f"encoder.layers.encoder_layer_{n}.ln_1" for n in (7, 9, 11)), pooled=False
    ),
    "efficientnet_lite0": Architecture("classifier", ("blocks.2", "blocks.4", "bn2"), _HALF_NORM),
}


class ChestXrayModel(nn.Module):
    """An architecture with fourteen outputs, one per finding in the order of FINDINGS, and its own normalization.

    Input: (b, 1, h, w) uint8, or float in [0, 1]. Output: (b, 14) logits; their sigmoids are the scores.
    """

    def __init__(self, arch: str, image_size: int):
        super().__init__()
        check_image_size(arch, image_size)
        spec = ARCHITECTURES[arch]
        self.arch, self.image_size = arch, image_size
        self.tta = False  # whether predictions average over small shifts
        self.memory_format = torch.contiguous_format
        self.backbone = zoo.network(arch, image_size)
        old = self.backbone.get_submodule(spec.head)
        self.backbone.set_submodule(spec.head, nn.Linear(old.in_features, len(FINDINGS)))
        mean, std = torch.tensor(spec.norm).view(2, 1, 3, 1, 1)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (b, 14) of images (b, 1, h, w), uint8 or float in [0, 1]."""
        x = (to_unit(images) - self.mean) / self.std
        return self.backbone(x.contiguous(memory_format=self.memory_format))

    def lay_out(self, layout: str) -> "ChestXrayModel":
        """Store the weights, and all later input, in the memory layout "channels_last" or "contiguous"."""
        self.memory_format = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}[layout]
        return self.to(memory_format=self.memory_format)

    @property
    def head(self) -> nn.Linear:
        """The last linear layer, (14, features)."""
        return self.backbone.get_submodule(ARCHITECTURES[self.arch].head)

    @property
    def cam_layer(self) -> nn.Module:
        """The layer whose output Grad-CAM reads."""
        return self.backbone.get_submodule(ARCHITECTURES[self.arch].cam_layers[-1])


@contextmanager
def in_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and afterwards each layer back into the mode that it had."""
    modes = [(layer, layer.training) for layer in model.modules()]  # frozen layers have another than the model
    try:
        model.eval()
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def build_model(arch: str, weights: str = "imagenet", image_size: int = 224) -> ChestXrayModel:
    """A model ready to train, in channels-last memory.

    weights: "imagenet" (torchvision's download, or for efficientnet_lite0 the file in its pip package), "none" (random,
    by torch's seed), for densenet121 "xrv-chex", "xrv-pc" or "xrv-mimic" (`zoo.radiographs`), or the path of a cxrlib
    checkpoint, whose head is kept. Raises InputError if they are unavailable or belong to another architecture.
    """
    model, weights = ChestXrayModel(arch, image_size), str(weights)
    spec = ARCHITECTURES[arch]
    head = {f"{spec.head}.{name}": value for name, value in model.head.state_dict().items()}
    if weights == "imagenet":
        _load(model, zoo.imagenet(arch) | head)
    elif weights.startswith("xrv-"):
        _load(model, zoo.radiographs(weights, arch, spec.norm) | head)
    elif weights.endswith(SUFFIXES):
        checkpoint = load_checkpoint(weights)
        if checkpoint["arch"] != arch:
            raise InputError(f"{weights} is a checkpoint of {checkpoint['arch']}; expected one of {arch} (arch)")
        named = checkpoint["state_dict"].items()
        _load(model, {name.removeprefix("backbone."): value for name, value in named if name.startswith("backbone.")})
    elif weights != "none":
        raise InputError(f"unknown weights {weights!r}; expected imagenet, none, {', '.join(zoo.RADIOGRAPH_WEIGHTS)}, "
                         f"or the path of a checkpoint ({', '.join(SUFFIXES)})")  # fmt: skip
    return model.lay_out("channels_last")


def save_checkpoint(path: str | Path, model: ChestXrayModel, **fields) -> Path:
    """Write a checkpoint atomically; `torch.load(weights_only=True)` can read it.

    fields: parts ({"train": images, "val": images}), config, epoch, val_auroc; thresholds and calibration, None until
    tuned, then of `Thresholds.to_dict` or `Calibrator.to_dict`; familiarity, of `training.familiarity`, or None.
    """
    mean, std = map(list, ARCHITECTURES[model.arch].norm)
    content = {
        "format": CHECKPOINT_FORMAT,
        "arch": model.arch,
        "findings": list(FINDINGS),
        "image_size": model.image_size,
        "mean": mean,
        "std": std,
        "thresholds": None,
        "calibration": None,
        "familiarity": None,
        "state_dict": {name: value.detach().cpu() for name, value in model.state_dict().items()},
    }
    return write_checkpoint(path, content | fields)


def model_from_checkpoint(checkpoint: dict) -> ChestXrayModel:
    """The trained model of a checkpoint, in evaluation mode. Raises InputError if its weights do not fit."""
    model = ChestXrayModel(checkpoint["arch"], checkpoint["image_size"])
    _strictly(model, checkpoint["state_dict"], checkpoint["arch"])
    model.tta = bool(checkpoint["config"].get("tta", False))
    return model.lay_out("channels_last").eval()


def _load(model: ChestXrayModel, state: dict) -> None:
    """Load the weights of the backbone; the positions of a vision transformer are stretched to the image size."""
    if model.arch == "vit_b_16":
        transformer = zoo.load("torchvision").models.vision_transformer
        state = transformer.interpolate_embeddings(model.image_size, PATCH, dict(state))
    _strictly(model.backbone, state, model.arch)


def _strictly(module: nn.Module, state: dict, arch: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).split("\n")[1].strip()[:150]
        raise InputError(f"the weights do not fit {arch} ({reason})") from None
