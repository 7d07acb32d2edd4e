"""Two tests of a heat map: whether it depends on what the model has learned, and the score on where it points.

Sanity (Adebayo et al. 2018): weights are made random block by block, the head first; a map of what was learned changes.
Faithfulness (Petsiuk et al. 2018): if the hottest places are blurred first, the score should fall faster than in a
random order (deletion); if they are the first to appear in a blurred radiograph, it should rise faster (insertion).
"""

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from cxrlib.data.dataset import to_unit
from cxrlib.evaluation.bootstrap import ratio
from cxrlib.explain.gradcam import grad_cam
from cxrlib.models.architectures import ChestXrayModel

_WINDOW = 8  # side in pixels of the patches in which structure is compared


# ---- sanity ----------------------------------------------------------------------------------------------------------
def randomized(
    model: ChestXrayModel, images: torch.Tensor, seed: int = 0, steps: int = 6
) -> Iterator[tuple[str, ChestXrayModel]]:
    """A copy of the model with more and more random weights: (last random layer, model), first with none random.

    The head comes first, then the other layers with weights in equal groups, from the last to the first. A layer's
    values are shuffled, which keeps their distribution; batch norms then take their statistics from `images`, since
    otherwise the signal would vanish and every map be empty.
    """
    changed = copy.deepcopy(model).eval()
    draw = torch.Generator().manual_seed(seed)
    kinds = nn.Conv2d | nn.Linear | nn.MultiheadAttention
    layers = [(name, layer) for name, layer in changed.backbone.named_modules() if isinstance(layer, kinds)][::-1]
    yield "none", changed
    ends = [1, *np.linspace(1, len(layers), steps).round().astype(int)[1:]]
    for start, end in pairwise([0, *ends]):
        for weight in (weight for _, layer in layers[start:end] for weight in layer.parameters(recurse=False)):
            order = torch.randperm(weight.numel(), generator=draw).to(weight.device)
            weight.detach().copy_(weight.detach().flatten()[order].view(weight.shape))
        if end > 1:
            take_statistics(changed, images)
        yield layers[end - 1][0], changed


def take_statistics(model: ChestXrayModel, images: torch.Tensor) -> None:
    """Set the batch norms' statistics to those of `images` (b, 1, h, w), in place; ends in evaluation mode."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
        norm.train()
    with torch.inference_mode():
        model(to_unit(images))
    model.eval()


def sanity(
    model: ChestXrayModel, images: torch.Tensor, findings: Sequence[int], seed: int = 0, steps: int = 6, **options
) -> pd.DataFrame:
    """Similarity of the maps to the first ones as the weights become random (`randomized`): one row per step and image.

    images: (b, 1, h, w), b of 2 or more; findings: (b,), the column of FINDINGS whose map is compared; options: layer,
    method of `grad_cam`. Columns: step (0: nothing is random yet), layer (the last one made random), image, rank
    (Spearman's correlation of the pixels), structure (SSIM), both at most 1. NaN where a map is empty or flat.
    """
    rows, first, chosen = [], None, (np.arange(len(images)), np.asarray(findings))
    for step, (layer, changed) in enumerate(randomized(model, images, seed, steps)):
        maps = grad_cam(changed, images, **options).numpy()[chosen]
        first = maps if first is None else first
        similar = zip(rank_correlation(first, maps), structural_similarity(first, maps), strict=True)
        rows += [(step, layer, row, *pair) for row, pair in enumerate(similar)]
    return pd.DataFrame(rows, columns=["step", "layer", "image", "rank", "structure"])


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each map with its partner, (n, h, w) -> (n,); NaN where one is flat."""
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (a, b)]
    x, y = (values - values.mean(axis=1, keepdims=True) for values in ranks)
    return ratio((x * y).sum(axis=1), np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1)))


def structural_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean SSIM (Wang et al. 2004) of each map in [0, 1] with its partner, (n, h, w) -> (n,); NaN where one is flat."""
    mean = partial(avg_pool2d, kernel_size=_WINDOW, stride=1)
    x, y = torch.from_numpy(a).double(), torch.from_numpy(b).double()
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, both = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    ssim = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4) * (2 * both + 9e-4) / (var_x + var_y + 9e-4)
    flat = (np.ptp(a, axis=(1, 2)) == 0) | (np.ptp(b, axis=(1, 2)) == 0)
    return np.where(flat, np.nan, ssim.mean(dim=(1, 2)).numpy())


# ---- faithfulness ----------------------------------------------------------------------------------------------------
def perturbation(
    model: ChestXrayModel,
    images: torch.Tensor,
    maps: np.ndarray,
    findings: Sequence[int],
    steps: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Deletion and insertion curves: one row per image, kind, order and step.

    images: (b, 1, h, w) uint8 or [0, 1]; maps: (b, h, w) in [0, 1], of the findings (b,), columns of FINDINGS.
    Columns: image, kind (deletion, insertion), order (map, random), share (of the pixels, 0 to 1), score.
    Pixels are removed by blurring, not blackened: the model has never seen a black patch. The random order is that of
    a smooth map, as the model's are.
    """
    x, model = to_unit(images), model.eval()
    side = max(1, min(x.shape[-2:]) // 10)  # blurred: no detail below a tenth of the side
    small = avg_pool2d(x, side, ceil_mode=True, count_include_pad=False)
    blurred = interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
    chosen = np.arange(len(x)), np.asarray(findings)
    noise = torch.rand((len(x), 1, 10, 10), generator=torch.Generator().manual_seed(seed))
    orders = {"map": torch.from_numpy(maps)[:, None], "random": interpolate(noise, size=x.shape[-2:], mode="bilinear")}

    def score(pictures: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return model(pictures).sigmoid().numpy()[chosen]

    rows, ends = [], (score(x), score(blurred))
    for order, heat in orders.items():
        place = heat.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1).view_as(x)
        for share in np.linspace(0, 1, steps + 1):
            hottest = place < share * x[0].numel()
            for kind, inside, outside in (("deletion", blurred, x), ("insertion", x, blurred)):
                is_blurred = int((share == 1) == (kind == "deletion"))
                scores = ends[is_blurred] if share in (0, 1) else score(torch.where(hottest, inside, outside))
                rows += [(row, kind, order, share, value) for row, value in enumerate(scores.tolist())]
    return pd.DataFrame(rows, columns=["image", "kind", "order", "share", "score"])


def areas(curves: pd.DataFrame) -> pd.DataFrame:
    """The area under each curve of `perturbation`: one row per image and kind, columns map, random and gain.

    gain: random - map for deletion, map - random for insertion; above 0 the map is more faithful than a random order.
    """
    sizes = curves.sort_values("share").groupby(["image", "kind", "order"])[["share", "score"]]
    area = sizes.apply(lambda curve: np.trapezoid(curve["score"], curve["share"]))
    table = pd.DataFrame({name: area.xs(name, level="order") for name in ("map", "random")})
    sign = np.where(table.index.get_level_values("kind") == "insertion", 1, -1)
    return table.assign(gain=sign * (table["map"] - table["random"])).reset_index()
