"""Tensors for the model: over the cache, or straight from the PNGs; augmentation in batches; loaders.

Training and evaluation share one geometry: the whole image, resized, never mirrored (the heart is on the left), never
cropped at the centre (apices and costophrenic angles matter). The images stay uint8 and one channel wide until the
model, which knows its own normalization.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from cxrlib.cache import ImageCache, read_image
from cxrlib.errors import InputError, some
from cxrlib.findings import FINDINGS

Batch = tuple[torch.Tensor, torch.Tensor]


class _LabelledDataset(Dataset):
    """Rows of `entries` in order; item: image (1, size, size) uint8 and labels (14,) float32, 0 or 1."""

    def __init__(self, entries: pd.DataFrame):
        self.entries = entries.reset_index(drop=True)
        self.labels = torch.tensor(self.entries[list(FINDINGS)].to_numpy(), dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Batch:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once: images (b, 1, size, size) uint8, labels (b, 14) float32."""
        return self._images(indices)[:, None], self.labels[list(indices)]

    def _images(self, indices: Sequence[int]) -> torch.Tensor:
        raise NotImplementedError


class CachedDataset(_LabelledDataset):
    """Radiographs from an `ImageCache`: the fast way. Raises InputError where the cache lacks one of the entries.

    Images that cannot be decoded (`ImageCache.bad`) are left out of `entries`, here and so everywhere.
    """

    def __init__(self, entries: pd.DataFrame, cache: ImageCache):
        super().__init__(cache.keep_good(entries))
        self.cache = cache
        self.image_size = cache.image_size
        self._rows = cache.rows(self.entries["image"])

    def _images(self, indices: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(self.cache.images[self._rows[list(indices)]])


class ChestXrayDataset(_LabelledDataset):
    """Radiographs straight from their PNGs, the same tensors as from the cache, decoded at each access.

    Raises InputError where `images` lacks one of the entries.
    """

    def __init__(self, entries: pd.DataFrame, images: dict[str, Path], image_size: int):
        super().__init__(entries)
        missing = [name for name in self.entries["image"] if name not in images]
        if missing:
            raise InputError(f"no radiograph was found for {some(missing)}; leave these entries out (keep_found)")
        self.image_size = image_size
        self._paths = [images[name] for name in self.entries["image"]]

    def _images(self, indices: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack([read_image(self._paths[index], self.image_size) for index in indices]))


def make_loader(
    dataset: Dataset,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    num_workers: int = 0,
    drop_last: bool = False,
) -> DataLoader:
    """Batches of a dataset: (images (b, 1, size, size) uint8, labels (b, 14) float32).

    shuffle: a new order each epoch, the same for the same seed. num_workers: processes that read ahead; 0 is right for
    the cache, whose rows are there before a process could be asked for them. drop_last: leave out a last batch that is
    not full.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(seed),
        num_workers=num_workers,
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
        collate_fn=_as_is,
        pin_memory=torch.cuda.is_available(),
    )


def augment(
    images: torch.Tensor,
    rotation: float = 7.0,
    shift: float = 0.05,
    scale: float = 0.05,
    contrast: float = 0.2,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Gentle changes that leave the anatomy in place, one draw an image: (b, 1, h, w) uint8 or [0, 1] to float [0, 1].

    rotation: at most so many degrees either way; shift: of the image's side; scale, contrast: at most by so much. No
    mirror flip. What comes in from outside is black, as the collimated border of a radiograph is.
    """
    x = to_unit(images)
    n = len(x)

    def draw(most: float) -> torch.Tensor:
        return ((torch.rand(n, generator=generator) * 2 - 1) * most).to(x.device)

    angle, zoom = draw(math.radians(rotation)), 1 + draw(scale)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    matrix = torch.stack([cos, -sin, 2 * draw(shift), sin, cos, 2 * draw(shift)], dim=1).view(n, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    gain, offset = (1 + draw(contrast)).view(n, 1, 1, 1), draw(contrast / 2).view(n, 1, 1, 1)
    return ((x - 0.5) * gain + 0.5 + offset).clamp(0, 1)


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Images as floats in [0, 1]: uint8 is divided by 255, floats are left as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _as_is(batch: Batch) -> Batch:
    return batch
