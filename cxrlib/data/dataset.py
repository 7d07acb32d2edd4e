"""Tensors for the model: the whole image, resized, never mirrored or cropped; augmentation in batches; loaders."""

import math
from collections.abc import Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from cxrlib.core.errors import InputError, some
from cxrlib.data.cache import ImageCache
from cxrlib.data.findings import FINDINGS
from cxrlib.data.images import read_image


class _LabelledDataset(Dataset):
    """Rows of `entries` in order; item: image (1, size, size) uint8 and labels (14,) float32: 1, 0 or NaN (unknown)."""

    def __init__(self, entries: pd.DataFrame, image_size: int):
        self.entries = entries.reset_index(drop=True)
        self.image_size = image_size
        self.labels = torch.tensor(self.entries[list(FINDINGS)].to_numpy(), dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A whole batch at once: images (b, 1, size, size) uint8, labels (b, 14) float32."""
        return torch.from_numpy(self._images(list(indices)))[:, None], self.labels[list(indices)]


class CachedDataset(_LabelledDataset):
    """Radiographs from an `ImageCache`, without those in its `bad`. Raises InputError where it lacks another."""

    def __init__(self, entries: pd.DataFrame, cache: ImageCache):
        super().__init__(cache.keep_good(entries), cache.image_size)
        self.cache = cache
        self._rows = cache.rows(self.entries["image"])

    def _images(self, indices: list[int]) -> np.ndarray:
        return self.cache.images[self._rows[indices]]


class ChestXrayDataset(_LabelledDataset):
    """The same, decoded from their files at each access. Raises InputError where `images` lacks one of the entries."""

    def __init__(self, entries: pd.DataFrame, images: dict[str, Path], image_size: int):
        super().__init__(entries, image_size)
        if missing := [name for name in self.entries["image"] if name not in images]:
            raise InputError(f"no radiograph was found for {some(missing)}; leave these entries out (keep_found)")
        self._paths = [images[name] for name in self.entries["image"]]

    def _images(self, indices: list[int]) -> np.ndarray:
        return np.stack([read_image(self._paths[index], self.image_size) for index in indices])


class EpochBatches(Sampler[list[int]]):
    """Batches of row numbers, in an order that depends only on the seed and the epoch, shared out among processes.

    A batch has `batch_size` rows for each of the `processes`, of which this is number `process`; the last may be
    smaller, but no process gets fewer than two rows, which batch normalization needs. Set `epoch`, from 1, and `first`,
    the batch to begin with, before iterating. Raises InputError for too few rows.
    """

    def __init__(self, rows: int, batch_size: int, seed: int = 0, process: int = 0, processes: int = 1):
        self.rows, self.seed, self.process, self.processes = rows, seed, process, processes
        self.together = batch_size * processes
        self.epoch, self.first = 1, 0
        if len(self) == 0:
            least = processes * min(2, batch_size)
            raise InputError(f"the part 'train' has {rows} images; expected at least {least} for {processes} processes")

    def __len__(self) -> int:
        whole, rest = divmod(self.rows, self.together)
        return whole + (rest >= 2 * self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
        for batch in range(self.first, len(self)):
            yield order[batch * self.together : (batch + 1) * self.together][self.process :: self.processes].tolist()


def make_loader(dataset: Dataset, batch_size=32, batches: EpochBatches | None = None, num_workers=0) -> DataLoader:
    """Images (b, 1, size, size) uint8 and labels (b, 14) float32 in the order of `batches`, else of the dataset."""
    order = {"batch_sampler": batches} if batches else {"batch_size": batch_size}
    workers = {"num_workers": num_workers, "persistent_workers": num_workers > 0, "worker_init_fn": _send_content}
    # datasets give whole batches, so that nothing is left to collate
    return DataLoader(dataset, **order, **workers, collate_fn=tuple, pin_memory=torch.cuda.is_available())


def _send_content(_: int) -> None:
    """Let a worker send tensors through its pipe: shared memory may be too small (64 MB in Docker)."""
    ForkingPickler.register(torch.Tensor, lambda tensor: (torch.from_numpy, (tensor.numpy(),)))


def augment(
    images: torch.Tensor, strength=1.0, rotation=7.0, shift=0.05, scale=0.05, contrast=0.2, generator=None
) -> torch.Tensor:
    """Gentle changes, no mirror flip, one draw per image: (b, 1, h, w) uint8 or [0, 1] to float [0, 1].

    rotation: maximum in degrees, either way; shift: share of the image's side; scale, contrast: relative; strength:
    factor of all four. Pixels from outside the image are black. generator: on the CPU, so that all devices draw alike.
    """
    x, n = to_unit(images), len(images)
    draws = (torch.rand(6, n, generator=generator) * 2 - 1) * strength
    turn, zoom, right, down, gain, offset = draws.to(x.device, non_blocking=True)
    angle, zoom = turn * math.radians(rotation), 1 + zoom * scale
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    matrix = torch.stack([cos, -sin, 2 * shift * right, sin, cos, 2 * shift * down], dim=1).view(n, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    gain, offset = 1 + contrast * gain.view(n, 1, 1, 1), contrast / 2 * offset.view(n, 1, 1, 1)
    return ((x - 0.5) * gain + 0.5 + offset).clamp(0, 1)


def shifted(images: torch.Tensor, share: float = 0.03) -> list[torch.Tensor]:
    """The images (b, 1, h, w), and shifted left, right, up and down by a share of the side; black comes in."""
    by = max(1, round(share * images.shape[-1]))
    return [F.pad(images, (x, -x, y, -y)) for x, y in ((0, 0), (by, 0), (-by, 0), (0, by), (0, -by))]


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Images as floats in [0, 1]: uint8 is divided by 255, floats are unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
