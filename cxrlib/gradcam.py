"""Grad-CAM (Selvaraju et al. 2017) for every architecture of the registry, all findings from one forward pass."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from cxrlib.dataset import to_unit
from cxrlib.errors import InputError
from cxrlib.findings import FINDINGS
from cxrlib.models import ChestXrayModel


def grad_cam(model: ChestXrayModel, images: torch.Tensor, layer: nn.Module | None = None) -> torch.Tensor:
    """Where the model looks for each finding: (b, 14, h, w) float32 in [0, 1], in the coordinates of `images`.

    images: (b, 1, h, w) uint8 or [0, 1]. layer: the module whose output is read, (b, c, h', w') or tokens
    (b, 1 + g * g, c); default: the architecture's `cam_layer`.
    A map is the layer's channels, each weighted by the mean gradient of the finding's logit, cut at zero, divided by
    its highest value (a map without a positive value stays zero) and enlarged bilinearly with half-pixel centres: cell
    (i, j) of a g x g grid is centred at ((i + 0.5) * h / g - 0.5, (j + 0.5) * w / g - 0.5).
    """
    activations, gradients = head_gradients(model, images, layer)
    weights = gradients.mean(dim=(3, 4))  # (b, 14, c)
    maps = torch.einsum("bkc,bchw->bkhw", weights, activations).relu()
    maps = F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)
    highest = maps.amax(dim=(2, 3), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=torch.finfo(maps.dtype).tiny), 0.0).cpu()


def head_gradients(
    model: ChestXrayModel, images: torch.Tensor, layer: nn.Module | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's output (b, c, h', w') and the gradients of the fourteen logits there, (b, 14, c, h', w').

    One forward pass: up to the layer nothing is recorded, and from there on only the head is differentiated, once a
    finding. Works under no_grad and inference_mode, and leaves the model as it was. Raises InputError where the layer
    is not passed, or its output has no grid.
    """
    layer = model.cam_layer if layer is None else layer
    cut = []

    def detach(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        if not isinstance(output, torch.Tensor):
            raise InputError(f"{type(module).__name__} gives no tensor; choose a layer with a grid")
        cut.append(output.detach().requires_grad_())
        torch.set_grad_enabled(True)  # what follows is the head
        return cut[0].clone()  # DenseNet's ReLU after its last layer writes in place

    training = [module for module in model.modules() if module.training]  # a frozen layer may not be
    model.eval()
    hook = layer.register_forward_hook(detach)
    try:
        with torch.inference_mode(False), torch.no_grad():
            logits = model(to_unit(images).to(next(model.parameters()).device))
            if not cut:
                raise InputError(f"{type(layer).__name__} is not part of this {model.arch}; choose one of its layers")
            as_grid(cut[0])
            with torch.enable_grad():
                each = [
                    torch.autograd.grad(logits[:, k].sum(), cut[0], retain_graph=True)[0] for k in range(len(FINDINGS))
                ]
    finally:
        hook.remove()
        for module in training:
            module.training = True
    return as_grid(cut[0].detach()), torch.stack([as_grid(gradient) for gradient in each], dim=1)


def as_grid(values: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) as it is; tokens (b, 1 + g * g, c) without the class token as (b, c, g, g)."""
    if values.ndim == 4:
        return values
    side = math.isqrt(max(0, values.shape[1] - 1))
    if values.ndim != 3 or side == 0 or values.shape[1] != 1 + side**2:
        raise InputError(
            f"the layer gives {tuple(values.shape)}, which has no grid; expected (b, c, h, w), or a class token "
            "and the tokens of a square"
        )
    return values[:, 1:].transpose(1, 2).reshape(len(values), -1, side, side)
