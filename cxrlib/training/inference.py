"""The scores of a data set: one forward pass over it, on one device or shared among processes."""

import torch

from cxrlib.core.progress import bar
from cxrlib.data.dataset import make_loader, shifted
from cxrlib.evaluation.predictions import Predictions
from cxrlib.training.memory import kept_memory


def predict(model, dataset, batch_size: int = 64, accelerator=None, num_workers: int = 0, progress: bool = False):
    """Scores of a model for every row of a dataset, as `Predictions` in the dataset's order.

    model: as `build_model` or `model_from_checkpoint` make it; dataset: `CachedDataset` or `ChestXrayDataset`, whose
    `entries` give images and patients. The model is put into evaluation mode for it and back after. Full precision.
    A model with `tta` set scores each image in five places and averages (`dataset.shifted`).
    accelerator: of a run with several processes, among which the batches are shared; every process gets all scores.
    """
    loader = make_loader(dataset, batch_size, num_workers=num_workers)
    if accelerator is not None:
        loader = accelerator.prepare_data_loader(loader)
    device = next(model.parameters()).device
    was_training, scores = model.training, []
    model.eval()
    with kept_memory(), torch.inference_mode():
        for images, _ in bar(loader, show=progress, desc="predict", unit=" batches", leave=False):
            images = images.to(device, non_blocking=True)
            views = shifted(images) if getattr(model, "tta", False) else [images]
            batch = torch.stack([model(view).sigmoid() for view in views]).mean(dim=0)
            scores.append((accelerator.gather_for_metrics(batch) if accelerator is not None else batch).cpu())
    model.train(was_training)
    return Predictions(
        scores=torch.cat(scores).numpy(),
        labels=dataset.labels.numpy(),
        image=dataset.entries["image"].to_numpy(),
        patient=dataset.entries["patient"].to_numpy(),
    )
