"""Two tests of a heat map: whether it depends on what the model has learned, and the score on where it points.

Sanity (Adebayo et al. 2018): weights are made random block by block, the head first; a map of what was learned changes.
Faithfulness (Petsiuk et al. 2018): if the hottest places are blurred first, the score should fall faster than in a
random order (deletion); if they are the first to appear in a blurred radiograph, it should rise faster (insertion).
"""

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from cxrlib.data.dataset import to_unit
from cxrlib.explain.gradcam import grad_cam
from cxrlib.models.architectures import ChestXrayModel, in_mode
from cxrlib.training.device import kept_memory


def randomized(model: ChestXrayModel, images: torch.Tensor, seed: int = 0, steps: int = 6) -> Iterator[tuple]:
    """A copy of the model with more and more random weights: (last random layer, model), first with none random.

    The head comes first, then the other layers with weights in equal groups, from the last to the first. A layer's
    values are shuffled; batch norms then take their statistics from `images`, or the signal would vanish on the way.
    """
    changed, draw = copy.deepcopy(model).eval(), torch.Generator().manual_seed(seed)
    kinds = nn.Conv2d | nn.Linear | nn.MultiheadAttention
    layers = [(name, layer) for name, layer in changed.backbone.named_modules() if isinstance(layer, kinds)][::-1]
    yield "none", changed
    ends = np.linspace(1, len(layers), steps).round().astype(int)
    for start, end in pairwise([0, *ends]):
        for weight in (weight for _, layer in layers[start:end] for weight in layer.parameters(recurse=False)):
            order = torch.randperm(weight.numel(), generator=draw).to(weight.device)
            weight.detach().copy_(weight.detach().flatten()[order].view(weight.shape))
        if end > 1:
            take_statistics(changed, images)
        yield layers[end - 1][0], changed


def take_statistics(model: ChestXrayModel, images: torch.Tensor) -> None:
    """Set the batch norms' statistics to those of `images` (b, 1, h, w), in place; ends in evaluation mode."""
    model.eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.train().momentum = 1.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are added up in one part per thread; random weights turn rounding into other maps
    try:
        with torch.inference_mode():
            model(to_unit(images).to(model.mean.device))
    finally:
        torch.set_num_threads(threads)
    model.eval()


@kept_memory()
def sanity(model: ChestXrayModel, images: torch.Tensor, findings: Sequence, seed=0, steps=6, **options) -> pd.DataFrame:
    """Likeness of the maps to the first ones as the weights become random (`randomized`): one row per step and image.

    images: (b, 1, h, w), b of 2 or more; findings: (b,), columns of FINDINGS; options: layer, method of `grad_cam`.
    Columns: step, layer (the last one made random), image, rank (Spearman's; NaN where a map is empty or flat).
    """
    rows, first, asked = [], None, torch.tensor(findings)
    for step, (layer, changed) in enumerate(randomized(model, images, seed, steps)):
        maps = grad_cam(changed, images, findings=asked, **options)
        ranks = pd.DataFrame(maps.flatten(1).numpy()).rank(axis=1)
        first = ranks if first is None else first
        rows += [(step, layer, *pair) for pair in first.corrwith(ranks, axis=1).items()]
    return pd.DataFrame(rows, columns=["step", "layer", "image", "rank"])


@kept_memory()
def perturbation(model: ChestXrayModel, images, maps, findings, steps=10, seed=0, orders=5) -> pd.DataFrame:
    """Deletion and insertion curves: one row per image, kind, order and step, the mean over `orders` random orders.

    images: (b, 1, h, w) uint8 or [0, 1]; maps: (b, h, w) in [0, 1], of the findings (b,), columns of FINDINGS.
    Columns: image, kind (deletion, insertion), order (map, random), share (of the pixels, 0 to 1), score.
    A random order, that of `random_maps`, also orders pixels of equal heat, so that a flat map gains nothing.
    """
    x, device = to_unit(images).cpu(), next(model.parameters()).device
    side = max(1, min(x.shape[-2:]) // 10)  # blurred, not black, which no model has seen
    small = avg_pool2d(x, side, ceil_mode=True, count_include_pad=False)
    blurred = interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
    chosen = np.arange(len(x)), np.asarray(findings)

    def score(pictures: torch.Tensor) -> np.ndarray:
        return model(pictures.to(device)).sigmoid().cpu().numpy()[chosen]

    rows = []
    with in_mode(model), torch.inference_mode():
        ends = score(x), score(blurred)
        for draw in range(orders):
            noise = random_maps(len(x), x.shape[-2:], seed=(seed, draw)).reshape(len(x), -1)
            for order, heat in (("map", maps.reshape(noise.shape)), ("random", noise)):
                place = torch.from_numpy(np.lexsort((-noise, -heat)).argsort()).view_as(x)  # by heat, ties by noise
                for share in np.linspace(0, 1, steps + 1):
                    hottest = place < share * x[0].numel()
                    for kind, inside, outside in (("deletion", blurred, x), ("insertion", x, blurred)):
                        is_blurred = int((share == 1) == (kind == "deletion"))
                        scores = ends[is_blurred] if share in (0, 1) else score(torch.where(hottest, inside, outside))
                        rows += [(image, kind, order, share, value) for image, value in enumerate(scores.tolist())]
    curves = pd.DataFrame(rows, columns=["image", "kind", "order", "share", "score"])
    return curves.groupby(["image", "kind", "order", "share"], sort=False, as_index=False).mean()


def random_maps(n: int, size: int | tuple[int, int], seed: int | tuple) -> np.ndarray:
    """Uniform noise on a grid of 10 x 10 cells, enlarged as the maps are, with maximum 1: (n, h, w)."""
    noise = torch.from_numpy(np.random.default_rng(seed).random((n, 1, 10, 10), dtype=np.float32))
    maps = interpolate(noise, size=size, mode="bilinear", align_corners=False)[:, 0]
    return (maps / maps.amax(dim=(1, 2), keepdim=True)).numpy()


def areas(curves: pd.DataFrame) -> pd.DataFrame:
    """Areas under `perturbation`'s curves by image and kind; a gain above 0: more faithful than a random order."""
    scores = curves.pivot_table("score", ["image", "kind"], ["order", "share"])
    each = {order: np.trapezoid(scores[order], scores[order].columns) for order in ("map", "random")}
    table = pd.DataFrame(each, index=scores.index).reset_index()
    return table.assign(gain=(table["map"] - table["random"]) * np.where(table["kind"] == "insertion", 1, -1))
