"""Whether an image is of the kind that a model was trained on: an upright frontal chest radiograph, of such a hospital.

An image is described by its standardized grey values on 8 x 8 cells, the amount of detail on 4 x 4 cells, brightness,
contrast, and 64 principal components of the input of the model's head. Two scores follow: the Mahalanobis distance from
the training images (Lee et al. 2018), and a linear discriminant between these and images made from them: turned,
inverted, cut out. Both covariances have Ledoit-Wolf shrinkage.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from cxrlib.core.errors import InputError
from cxrlib.data.dataset import augment, to_unit
from cxrlib.models.architectures import ChestXrayModel, model_from_checkpoint
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
from cxrlib.training.inference import Engine

KINDS = ("a radiograph turned to the left", "a radiograph upside down", "a radiograph turned to the right",
         "an inverted radiograph (air bright, bone dark)", "a part of a radiograph")  # fmt: skip
_MOST, _MOST_MADE = 1000, 128  # images of a part, and images made of each kind: more of them change little
_LEAST = 25  # images of a part; a limit on fewer would say nothing
_COMPONENTS = 64
_FLAGGED, _REFUSED = 0.995, 0.99  # quantiles of validation images, and of the same altered as another hospital may do


class Familiarity:
    """What `fit_familiarity` returned. Raises InputError where it does not fit a model with `width` features."""

    def __init__(self, fitted: dict[str, torch.Tensor], width: int):
        components = len(fitted.get("components", ()))
        length = 64 + 16 + 2 + components  # of a description
        shapes = {"mean": (width,), "components": (components, width), "centre": (length,), "whiten": (length, length),
                  "coef": (len(KINDS), length), "intercept": (len(KINDS),), "limits": (2, 2)}  # fmt: skip
        if {name: tuple(value.shape) for name, value in fitted.items()} != shapes:
            raise InputError("the checkpoint's record of its training images does not fit its model; train again")
        self._fitted = {name: value.double() for name, value in fitted.items()}

    def judge(self, features: torch.Tensor, images: torch.Tensor) -> list[tuple[bool, str]]:
        """Of images (b, 1, h, w) with features (b, width): whether each is refused, and why; "" if as in training."""
        scores, nearest = _scores(self._fitted, features, images)
        flagged, refused = ((scores > limits).any(dim=1).tolist() for limits in self._fitted["limits"])
        reasons = ["unlike the radiographs that the model was trained on" if flag else "" for flag in flagged]
        other = "no upright frontal chest radiograph as in training; nearest to "
        each = zip(refused, nearest.tolist(), reasons, strict=True)
        return [(bad, other + KINDS[kind] if bad else reason) for bad, kind, reason in each]


def fit_familiarity(model: ChestXrayModel, train, val) -> dict[str, torch.Tensor] | None:
    """The field `familiarity` of a checkpoint, from at most 1,000 images of each dataset; None for under 25."""
    from sklearn.covariance import LedoitWolf  # here, as it takes half a second, and a prediction needs none of it
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    if min(len(train), len(val)) < _LEAST:
        return None
    rng = np.random.default_rng(0)
    x, y = (part.__getitems__(rng.permutation(len(part))[:_MOST].tolist())[0] for part in (train, val))
    made = _made(x[:_MOST_MADE], rng)
    altered = augment(y[: 2 * _MOST_MADE], strength=2.0, generator=torch.Generator().manual_seed(0))
    sets = (x, y, altered, *made)
    engine = Engine(model, sum(map(len, sets)))
    every = (torch.cat([engine(batch)[1].cpu() for batch in each.split(64)]).double() for each in sets)
    of_x, of_y, of_altered, *of_made = every

    mean, std = of_x.mean(dim=0), of_x.std(dim=0)
    std = std.clamp(min=float(std.mean()) / 10 + 1e-6)  # of units that only a few images reach
    _, spread, axes = torch.linalg.svd((of_x - mean) / std, full_matrices=False)
    spread = (spread[:_COMPONENTS].square() / (len(x) - 1) + 1e-3).sqrt()
    fitted = {"mean": mean, "components": axes[:_COMPONENTS] / spread[:, None] / std}
    known, *others = (_description(fitted, *each).numpy() for each in ((of_x, x), *zip(of_made, made, strict=True)))

    shape = LedoitWolf().fit(known)
    fitted["centre"] = torch.from_numpy(shape.location_)
    fitted["whiten"] = torch.from_numpy(np.linalg.cholesky(shape.precision_))
    kinds = np.repeat(range(6), [len(each) for each in (known, *others)])
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[1 / 6] * 6)
    lda.fit(np.concatenate([known, *others]), kinds)
    fitted["coef"], fitted["intercept"] = (torch.from_numpy(each[1:] - each[0]) for each in (lda.coef_, lda.intercept_))
    near = _scores(fitted, of_y, y)[0].quantile(_FLAGGED, dim=0)
    far = _scores(fitted, of_altered, altered)[0].quantile(_REFUSED, dim=0)
    fitted["limits"] = torch.stack([near, torch.maximum(near, far)])
    return {name: value.float() for name, value in fitted.items()}


def remember_training(paths: list[Path], train, val, device: torch.device) -> None:
    """Add `fit_familiarity` to the checkpoints that lack it; those with the same features share it."""
    fitted = {}
    for path in paths:
        checkpoint = load_checkpoint(path)
        if checkpoint.get("familiarity") is not None:
            continue
        epoch = None if checkpoint["config"].get("mode") == "probe" else checkpoint["epoch"]
        if epoch not in fitted:
            model = model_from_checkpoint(checkpoint).to(device)
            model.tta = False  # the features are those of the first view, so the others are not needed
            fitted[epoch] = fit_familiarity(model, train, val)
        write_checkpoint(path, checkpoint | {"familiarity": fitted[epoch]})


def _made(images: torch.Tensor, rng: np.random.Generator) -> list[torch.Tensor]:
    """Of uint8 radiographs (b, 1, h, w) one of each of `KINDS`, in their order."""
    parts = []
    for image in images:
        side = round(image.shape[-1] * rng.uniform(0.4, 0.6))
        top, left = rng.integers(0, image.shape[-1] - side, size=2, endpoint=True)
        part = image[None, :, top : top + side, left : left + side].float()
        parts.append(F.interpolate(part, size=image.shape[-2:], mode="bilinear", antialias=True))
    turned = [torch.rot90(images, turns, (2, 3)) for turns in (1, 2, 3)]
    return [*turned, 255 - images, torch.cat(parts).round().to(torch.uint8)]


def _description(fitted: dict, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """`_pixels`, and components of variance 1 in training: (b, 82 + components)."""
    pixels = torch.cat([_pixels(batch) for batch in images.cpu().split(64)])
    return torch.cat([pixels, (features.double() - fitted["mean"]) @ fitted["components"].T], dim=1)


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """Cells, detail, brightness, contrast (b, 82) float64; factors give them about the spread of the components."""
    x = to_unit(images).double()
    cells = F.adaptive_avg_pool2d(x, 8).flatten(1)
    cells = (cells - cells.mean(dim=1, keepdim=True)) / cells.std(dim=1, keepdim=True).clamp(min=1 / 64)
    edges = x.diff(dim=2)[..., 1:].abs() + x.diff(dim=3)[:, :, 1:].abs()
    detail = (255 * F.adaptive_avg_pool2d(edges, 4)).log1p().flatten(1)
    contrast = (255 * x.flatten(1).std(dim=1)).log1p()
    return torch.cat([cells, detail, 6 * x.mean(dim=(1, 2, 3))[:, None], 3 * contrast[:, None]], dim=1)


def _scores(fitted: dict, features: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance and discriminant (b, 2), and the number of the nearest of `KINDS`."""
    x = _description(fitted, features, images)
    distance = ((x - fitted["centre"]) @ fitted["whiten"]).norm(dim=1)
    best = (x @ fitted["coef"].T + fitted["intercept"]).max(dim=1)
    return torch.stack([distance, best.values], dim=1), best.indices
