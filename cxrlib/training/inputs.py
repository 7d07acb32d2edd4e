"""The datasets of a training run, and the record of its images for the checkpoint."""

from pathlib import Path

import pandas as pd

from cxrlib.core.errors import InputError
from cxrlib.data.cache import ImageCache
from cxrlib.data.dataset import CachedDataset, ChestXrayDataset
from cxrlib.data.splits import remembered, subset
from cxrlib.models.checkpoints import load_checkpoint
from cxrlib.models.names import SUFFIXES
from cxrlib.training.config import TrainConfig


def make_dataset(entries: pd.DataFrame, images: ImageCache | dict[str, Path], image_size: int):
    """The dataset of the entries, read from the cache or from image files ({name: path})."""
    if isinstance(images, ImageCache):
        if images.image_size != image_size:
            raise InputError(f"the cache holds {images.image_size} pixels a side; expected {image_size}; rebuild it")
        return CachedDataset(entries, images)
    return ChestXrayDataset(entries, images, image_size)


def datasets(config: TrainConfig, entries: pd.DataFrame, images: ImageCache | dict[str, Path]):
    """The training and validation datasets. Raises InputError if one is empty or no finding has an AUROC."""
    both = []
    for part, size in (("train", config.train_subset), ("val", config.val_subset)):
        chosen = subset(entries, part, size, config.seed)
        if chosen.empty:
            raise InputError(f"the part {part!r} holds no image; expected some (check the split and img_root)")
        both.append(make_dataset(chosen, images, config.image_size))
    positives = both[1].labels.nanmean(dim=0)  # over the known labels
    if not ((positives > 0) & (positives < 1)).any():
        raise InputError(f"no finding has positives and negatives among the {len(both[1])} validation images, so "
                         "no epoch can be chosen; enlarge val_subset")  # fmt: skip
    return both


def parts_to_remember(config: TrainConfig, entries: pd.DataFrame) -> dict[str, list[str]]:
    """`splits.remembered` of a run: its own images, and those of the checkpoint that it starts from."""
    earlier = load_checkpoint(config.weights)["parts"] if config.weights.endswith(SUFFIXES) else None
    return remembered(entries, config.split, earlier, config.weights)
