"""cxr train."""

from contextlib import nullcontext
from pathlib import Path

from cxrlib.cli import processes
from cxrlib.cli.commands.opening import check_training, data_of, images_of
from cxrlib.cli.options import TrainOptions
from cxrlib.core.paths import check_folder, one_process
from cxrlib.data.splits import split, subsets
from cxrlib.training.device import pick_device
from cxrlib.training.loop import fit


def run(options: TrainOptions) -> None:
    """Train on the training images, choose the epoch on the validation images, never look at the test images."""
    config = options.config
    check_folder(options.run_dir)
    pick_device(config.device)
    data = data_of(options)
    entries = split(data.entries, config.split, config.seed, config.fractions, data.folders)
    check_training(config, entries, data)
    used = subsets(entries[entries["part"] != "test"], config.train_subset, config.val_subset, seed=config.seed)
    images = images_of(options, data, config.image_size, used["image"], options.run_dir)
    out = Path(options.run_dir)
    out.mkdir(parents=True, exist_ok=True)
    alone = one_process(out / ".train.lock", f"training into {out}")
    with alone if processes.is_first() else nullcontext():  # the processes of one training share it
        history = fit(config, entries, images, out)
    kept = history[history["best"]].iloc[-1]
    print(f"kept epoch {kept['epoch']:.0f}: validation macro AUROC {kept['val_auroc']:.4f}")
    print(f"wrote {out / 'model_best.pth'} and model_last.pth")
