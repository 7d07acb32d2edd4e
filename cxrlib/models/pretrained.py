"""DenseNet-121 as torchxrayvision trained it on radiographs of other hospitals (Cohen et al. 2022), for a start.

Its weights that have seen ChestX-ray14 are refused: what they know of the test images would pass for skill.
"""

import pickle
import urllib.request
from pathlib import Path

import torch

from cxrlib.core.errors import InputError, nearest
from cxrlib.core.paths import CACHE, written_whole

# name here -> name in torchxrayvision; mimic: with the labels of the CheXpert labeller
RADIOGRAPH_WEIGHTS = {"xrv-chex": "chex", "xrv-pc": "pc", "xrv-mimic": "mimic_ch"}
_HAVE_SEEN = {
    "xrv-nih": "they were trained on ChestX-ray14, its test images among them",
    "xrv-rsna": "every image of the RSNA challenge is one of ChestX-ray14, 8,196 of them of its official test part",
    "xrv-all": "ChestX-ray14 and the RSNA challenge were among the sets they were trained on",
}
_SPAN, _MIDDLE = 2048.0, 0.5  # torchxrayvision's input is 2048 x - 1024, one channel, for x in [0, 1]


def radiograph_state(name: str, arch: str, norm: tuple) -> dict:
    """The state dict of our `arch`, whose three channels are normalized by `norm`, from the weights called `name`.

    Raises InputError for unknown weights, weights that have seen the test images, another architecture than
    densenet121, or where they cannot be downloaded.
    """
    if name in _HAVE_SEEN:
        raise InputError(
            f"weights {name} are refused: {_HAVE_SEEN[name]}; expected weights that have not seen the test images: "
            f"{', '.join(RADIOGRAPH_WEIGHTS)}"
        )
    if name not in RADIOGRAPH_WEIGHTS:
        known = list(RADIOGRAPH_WEIGHTS)
        raise InputError(f"unknown weights {name!r}; expected one of {', '.join(known)}{nearest(name, known)}")
    if arch != "densenet121":
        raise InputError(f"weights {name} are those of a DenseNet-121; expected arch densenet121, not {arch}")
    return for_three_channels(_read(_download(name)), norm)


def for_three_channels(state: dict, norm: tuple) -> dict:
    """torchxrayvision's state dict for an input of three equal channels (x - mean) / std: the same sums after the first
    convolution, except where it reaches over the border, which is 0.5 there and the mean grey here.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_whole(path) as beside, urllib.request.urlopen(url) as there, beside.open("wb") as file:
            while block := there.read(1 << 20):
                file.write(block)
    except OSError as error:  # URLError and time-outs are OSErrors
        raise InputError(
            f"the weights {name} cannot be downloaded ({error}); expected a network; or put the file at {path}, "
            "or start from others (weights=imagenet, weights=none)"
        ) from None
    return path


def _read(path: Path) -> dict:
    """The tensors of a file that holds a whole pickled model, without running anything in it but torch's own layers."""
    import torchxrayvision.models as theirs
    from torch import nn

    allowed = [getattr(theirs, name) for name in ("DenseNet", "_DenseBlock", "_DenseLayer", "_Transition")]
    allowed += [nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Linear]
    try:
        with torch.serialization.safe_globals(allowed):
            model = torch.load(path, weights_only=True, map_location="cpu")
        return model if isinstance(model, dict) else model.state_dict()
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0][:150]
        raise InputError(f"{path} cannot be read as torchxrayvision's weights ({reason}); remove it to load it "
                         "anew")  from None  # fmt: skip
