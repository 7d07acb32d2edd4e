"""Initial weights from torchxrayvision: DenseNet-121 trained on radiographs of other hospitals (Cohen et al. 2022).

Weights trained on ChestX-ray14 are refused, because of leakage of the test images. torchxrayvision publishes no
checksums, so a download is accepted if it has the length that the server announced and is read as a model of theirs,
which executes no code.
"""

import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path

import torch

from cxrlib.core.errors import InputError, nearest
from cxrlib.core.paths import CACHE, written_whole
from cxrlib.models.checkpoints import read

# name here -> name in torchxrayvision; mimic: with the labels of the CheXpert labeller
RADIOGRAPH_WEIGHTS = {"xrv-chex": "chex", "xrv-pc": "pc", "xrv-mimic": "mimic_ch"}
_HAVE_SEEN = {
    "xrv-nih": "they were trained on ChestX-ray14, its test images among them",
    "xrv-rsna": "every image of the RSNA challenge is one of ChestX-ray14, 8,196 of them of its official test part",
    "xrv-all": "ChestX-ray14 and the RSNA challenge were among the sets they were trained on",
}
_TIMEOUT = 60  # seconds without an answer, or without further data
_SPAN, _MIDDLE = 2048.0, 0.5  # torchxrayvision's input is 2048 x - 1024, one channel, for x in [0, 1]


def radiograph_state(name: str, arch: str, norm: tuple) -> dict:
    """The weights `name` as a state dict of `arch`, whose three input channels are normalized by `norm`.

    Raises InputError if they are unknown, have seen the test images or cannot be had, or `arch` is not densenet121.
    """
    if name in _HAVE_SEEN:
        raise InputError(f"weights {name} are refused: {_HAVE_SEEN[name]}; expected weights that have not seen the "
                         f"test images: {', '.join(RADIOGRAPH_WEIGHTS)}")  # fmt: skip
    if name not in RADIOGRAPH_WEIGHTS:
        hint = nearest(name, RADIOGRAPH_WEIGHTS)
        raise InputError(f"unknown weights {name!r}; expected one of {', '.join(RADIOGRAPH_WEIGHTS)}{hint}")
    if arch != "densenet121":
        raise InputError(f"weights {name} are those of a DenseNet-121; expected arch densenet121, not {arch}")
    path = _download(name)
    return for_three_channels(_read(path, path), norm)


def for_three_channels(state: dict, norm: tuple) -> dict:
    """Adapt torchxrayvision's state dict to an input of three equal channels (x - mean) / std.

    The first convolution gives the same sums except at the border, whose padding is 0.5 there and the mean grey here.
    """
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
                announced = response.headers.get("Content-Length")
            if announced and temporary.stat().st_size != int(announced):
                raise ConnectionError(f"{temporary.stat().st_size:,} of {int(announced):,} bytes arrived")
            _read(temporary, path)  # before it takes its name
    except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
        raise InputError(
            f"the weights {name} cannot be downloaded ({error}); connect to a network, put the file at {path}, "
            "or use other weights (weights=imagenet, weights=none)"
        ) from None
    return path


def _read(path: Path, name: Path) -> dict:
    """The state dict of a pickled model, unpickling only classes of torch and torchxrayvision; errors say `name`."""
    import torchxrayvision.models as theirs
    from torch import nn

    allowed = [getattr(theirs, name) for name in ("DenseNet", "_DenseBlock", "_DenseLayer", "_Transition")]
    allowed += [nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Linear]
    failure = f"{name} cannot be read as torchxrayvision's weights"
    with torch.serialization.safe_globals(allowed):
        model = read(path, failure, "remove it, if it is there, to download it again")
    return model if isinstance(model, dict) else model.state_dict()
