"""Predictions for a dataset, on one device or distributed over processes."""

import torch

from cxrlib.core.progress import bar
from cxrlib.data.dataset import make_loader, shifted
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import in_mode
from cxrlib.training.memory import kept_memory


def scores_of(model, images: torch.Tensor) -> torch.Tensor:
    """Scores (b, 14) of images on the model's device; averages over `shifted` views if its attribute `tta` is true."""
    views = shifted(images) if getattr(model, "tta", False) else [images]
    return torch.stack([model(view).sigmoid() for view in views]).mean(dim=0)


def predict(model, dataset, batch_size: int = 64, accelerator=None, num_workers: int = 0, progress: bool = False):
    """Score every row of a dataset in full precision; returns `Predictions` in the dataset's order.

    The model is in evaluation mode during the call. If its attribute `tta` is true, the scores are averages over five
    shifts of each image (`dataset.shifted`). dataset: of `inputs.make_dataset`. accelerator: if given, distributes the
    batches over its processes; each process gets all scores. num_workers: processes that read ahead.
    """
    loader = make_loader(dataset, batch_size, num_workers=num_workers)
    if accelerator is not None:
        loader = accelerator.prepare_data_loader(loader)
    device = next(model.parameters()).device
    scores = []
    with kept_memory(), in_mode(model), torch.inference_mode():
        for images, _ in bar(loader, show=progress, desc="predict", unit=" batches", leave=False):
            batch = scores_of(model, images.to(device, non_blocking=True))
            scores.append((accelerator.gather_for_metrics(batch) if accelerator is not None else batch).cpu())
    return Predictions(
        scores=torch.cat(scores).numpy(),
        labels=dataset.labels.numpy(),
        image=dataset.entries["image"].to_numpy(),
        patient=dataset.entries["patient"].to_numpy(),
    )
