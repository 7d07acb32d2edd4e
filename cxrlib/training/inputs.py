"""What a run reads, what its weights depend on, and what an earlier run left in its folder."""

from itertools import count
from pathlib import Path

import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.data.cache import ImageCache
from cxrlib.data.dataset import CachedDataset, ChestXrayDataset
from cxrlib.data.splits import digest as digest_of_entries, remembered, subset
from cxrlib.models.checkpoints import digest, load_checkpoint, read
from cxrlib.models.names import SUFFIXES
from cxrlib.training.config import TrainConfig

Images = ImageCache | dict[str, Path]  # or image files, {name: path}
_FREE = ("resume", "save_minutes", "num_workers", "val_share")  # the images, which val_share decides, are compared
_MADE = ("model_best.pth", "model_last.pth", "state.pth", "history.csv", "predictions_val.npz", "predictions_test.npz")
# by cxr eval and cxr gradcam, where --out is the folder of the run, and a file by which theirs are known
_MADE_FROM_THEM = {"tables": "metrics.txt", "gradcam": "scores.csv"}
_IN_THE_COURSE = ("thresholds.json", "calibration.json", "metrics.csv", "audit.csv", "experts.csv", "localization.csv",
                  "report.html", "report.pdf", "figures/03_history.*", "figures/03_auroc.*", "figures/05_*",
                  "figures/06_*")  # fmt: skip


def make_dataset(entries: pd.DataFrame, images: Images, image_size: int):
    """The dataset of the entries, read from the cache or from image files."""
    if isinstance(images, ImageCache):
        if images.image_size != image_size:
            raise InputError(f"the cache holds {images.image_size} pixels a side; expected {image_size}; rebuild it")
        return CachedDataset(entries, images)
    return ChestXrayDataset(entries, images, image_size)


def datasets(config: TrainConfig, entries: pd.DataFrame, images: Images):
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


def identity(config: TrainConfig, *parts: pd.DataFrame) -> dict:
    """What weights depend on: parameters, images and labels of `parts`, and the weights in the start checkpoint."""
    parameters = {name: value for name, value in config.model_dump().items() if name not in _FREE}
    if config.weights.endswith(SUFFIXES):
        parameters["weights"] = f"checkpoint {digest(load_checkpoint(config.weights)['state_dict'])}"
    return parameters | {"images": digest_of_entries(*parts)}


def differing(theirs: dict, ours: dict) -> dict:
    """What an earlier run has where the identity `ours` differs; it had the defaults of parameters added since."""
    theirs = {name: field.default for name, field in TrainConfig.model_fields.items()} | theirs
    return {name: theirs.get(name) for name in ours if theirs.get(name) != ours[name]}


def left_by(path: Path, ours: dict) -> dict | None:
    """What a run left in state.pth or, once finished, model_last.pth; InputError for another identity than `ours`."""
    content = read(path, f"{path} cannot be read", "remove it to begin anew") if path.is_file() else {}
    if "identity" not in content:
        return None
    if differ := differing(content["identity"], ours):
        shown = ["images or labels" if name == "images" else f"{name} {value!r}, now {ours[name]!r}"
                 for name, value in differ.items()]  # fmt: skip
        moved = " (that start may lie in previous-N by now)" if "weights" in differ else ""
        raise InputError(f"{path} is of a run with other {some(shown)}{moved}; expected the same: "
                         "choose another folder, or train without resume")  # fmt: skip
    return content


def set_aside(out: Path) -> None:
    """Move what an earlier run, and notebooks with its model, left in `out` and its run folder, to out/previous-N."""
    found = [path for path in map(out.joinpath, _MADE) if path.exists()]
    if found:
        found += [out / name for name, file in _MADE_FROM_THEM.items() if (out / name / file).is_file()]
    if (out.parent / "run.json").is_file():
        found += [path for pattern in _IN_THE_COURSE for path in sorted(out.parent.glob(pattern))]
    if not found:
        return
    aside = next(path for number in count(1) if not (path := out / f"previous-{number}").exists())
    for path in found:
        moved = aside / path.relative_to(out if out in path.parents else out.parent)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    print(f"{out} held an earlier run; moved to {aside.name}: {some([path.name for path in found], 30)}")
