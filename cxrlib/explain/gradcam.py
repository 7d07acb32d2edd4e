"""Heat maps for every architecture of the registry, all fourteen findings from one forward pass.

A layer with a grid gives c channels A, small pictures of the radiograph; G is the gradient of a finding's logit there.

    gradcam     sum over channels of mean(G) * A. Selvaraju et al. 2017
    gradcam++   sum over channels of sum(alpha * relu(G)) * A; alpha = 1 / (2 + sum(A) G). Chattopadhay et al. 2018
    layercam    sum over channels of relu(G) * A: a weight for each place, not each channel. Jiang et al. 2021
    activation  mean over channels of |A|: the control, which has no gradient and one map for all findings
"""

import math
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cxrlib.core.errors import InputError
from cxrlib.data.dataset import to_unit
from cxrlib.models.architectures import ARCHITECTURES, ChestXrayModel, in_mode
from cxrlib.models.names import METHODS


def default_layers(model: ChestXrayModel, method: str) -> list[str] | None:
    """All `cam_layers`, fused, for LayerCAM, which was made for that; None, the last of them, for the other methods."""
    return list(ARCHITECTURES[model.arch].cam_layers) if method == "layercam" else None


def grad_cam(model: ChestXrayModel, images: torch.Tensor, layer=None, method="gradcam", findings=None) -> torch.Tensor:
    """Where the model looks for each finding: (b, 14, h, w) float32 in [0, 1], in the coordinates of `images`.

    images: (b, 1, h, w) uint8 or [0, 1]. layer: the module whose output is read, or its name in the backbone (as in
    `cam_layers`): (b, c, h', w') or tokens (b, 1 + g * g, c); default: the `cam_layer`. Of several layers, the mean of
    their maps, scaled again. method: one of METHODS. findings: (b,) places in FINDINGS, the one that is asked for in
    each image, which takes a single backward pass and gives (b, 1, h, w).
    A map is the raw one, its negative values set to 0, enlarged bilinearly without aligned corners, and divided by its
    highest value unless that is zero. Raises InputError for an unknown method, a layer that is not run or has no grid.
    """
    raw = raw_maps(model, images, layer, method, findings)
    maps = [_to_one(F.interpolate(grid.relu(), size=images.shape[-2:], mode="bilinear")) for grid in raw]
    return _to_one(torch.stack(maps).mean(dim=0)).cpu()


def _to_one(maps: torch.Tensor) -> torch.Tensor:
    """Each map divided, in place, by its highest value; zeros stay zeros."""
    return maps.div_(maps.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny))


def mean_maps(each: list[np.ndarray]) -> np.ndarray:
    """The mean of several models' maps (..., h, w), each enlarged or shrunk to the size of the first."""
    flat = [torch.from_numpy(one).reshape(1, -1, *one.shape[-2:]) for one in each]
    resized = [F.interpolate(one, size=flat[0].shape[-2:], mode="bilinear") for one in flat]
    return torch.stack(resized).mean(dim=0).numpy().reshape(each[0].shape)


def raw_maps(model: ChestXrayModel, images: torch.Tensor, layer=None, method="gradcam", findings=None) -> list:
    """The maps on the grid of each layer, (b, 14, h', w') float32, negative values kept. Arguments as in `grad_cam`."""
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    with torch.inference_mode(False):
        kept, logits = _forward(model, images, layer if isinstance(layer, list | tuple) else [layer])
        grids = [as_grid(one.detach()) for one in kept]
        asked = logits if findings is None else logits.gather(1, findings[:, None].to(logits.device))
        if method == "activation":
            return [grid.abs().mean(dim=1, keepdim=True).repeat(1, asked.shape[1], 1, 1) for grid in grids]
        maps = []
        for each in asked.unbind(dim=1):
            gradients = map(as_grid, torch.autograd.grad(each.sum(), kept, retain_graph=True))
            maps.append([_weighed(method, *pair) for pair in zip(grids, gradients, strict=True)])
        return [torch.stack(of_layer, dim=1) for of_layer in zip(*maps, strict=True)]


def as_grid(values: torch.Tensor) -> torch.Tensor:
    """Channels (b, c, h, w) unchanged; tokens (b, 1 + g * g, c) without the class token as (b, c, g, g)."""
    if values.ndim == 4:
        return values
    side = math.isqrt(max(0, values.shape[1] - 1))
    if values.ndim != 3 or side == 0 or values.shape[1] != 1 + side**2:
        raise InputError(f"the layer gives {tuple(values.shape)}, which has no grid; expected (b, c, h, w), or a class "
                         "token and the tokens of a square")  # fmt: skip
    return values[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def _weighed(method: str, channels: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """The map (b, h, w) of channels and their gradients (b, c, h, w)."""
    if method == "layercam":
        return (gradients.relu() * channels).sum(dim=1)
    weights = gradients.mean(dim=(2, 3))
    if method == "gradcam++":  # alpha shortened by G^2, since the squares of small gradients vanish
        alpha = 1 / (2 + channels.sum(dim=(2, 3), keepdim=True) * gradients)
        weights = torch.where(gradients > 0, alpha * gradients, 0.0).sum(dim=(2, 3))
    return torch.einsum("bc,bchw->bhw", weights, channels)


def _forward(model: ChestXrayModel, images: torch.Tensor, layers: list) -> tuple[list, torch.Tensor]:
    """The outputs of `layers`, in that order, and the logits (b, 14) as a differentiable function of them."""
    known = {None: model.cam_layer}
    known |= {name.removeprefix("backbone."): part for name, part in model.named_modules(remove_duplicate=False)}
    layers, outputs = [known.get(layer, layer) for layer in layers], {}
    if unknown := [layer for layer in layers if isinstance(layer, str)]:
        choices = ", ".join(ARCHITECTURES[model.arch].cam_layers)
        raise InputError(f"{model.arch} has no layer {unknown[0]!r}; expected one such as {choices}")

    def keep(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        if not isinstance(output, torch.Tensor):
            raise InputError(f"{type(module).__name__} gives no tensor; choose a layer with a grid")
        outputs[module] = output if outputs else output.detach().requires_grad_()
        torch.set_grad_enabled(True)  # the rest is differentiated
        return outputs[module].clone()  # DenseNet's ReLU after its last layer writes in place

    with ExitStack() as hooks, in_mode(model), torch.no_grad():
        for layer in dict.fromkeys(layers):
            hooks.enter_context(layer.register_forward_hook(keep))
        logits = model(to_unit(images).to(next(model.parameters()).device))
    if lost := [type(layer).__name__ for layer in layers if layer not in outputs]:
        raise InputError(f"{lost[0]} is not part of this {model.arch}; choose one of its layers")
    return [outputs[layer] for layer in layers], logits
