"""Scores and features of many images, in full precision, as fast as the machine can; predictions for a dataset.

On a CPU each core computes other images: sharing the layers of a network, cores wait for each other at every one.
onnxruntime, where it is installed, computes the same scores within 1e-5, a tenth to four fifths faster (`make bench`).
"""

import copy
import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import torch

from cxrlib.core.progress import bar
from cxrlib.data.dataset import make_loader, shifted, to_unit
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.predictions import Predictions
from cxrlib.models.architectures import ChestXrayModel
from cxrlib.training.device import kept_memory

_MANY = 2**23  # pixels, from which the second of preparing onnxruntime pays: 170 images of 224 x 224
_PIECE, _PIECE_ONNX = 2**18, 8  # what a core computes at once: pixels (5 images of 224 x 224), and images; measured


class Engine:
    """Scores and features of a model in evaluation mode; the model itself, whose weights it shares, stays as it is.

    images: about how many there will be, which decides whether onnxruntime is prepared.
    """

    def __init__(self, model: ChestXrayModel, images: int = 0):
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self._network = copy.deepcopy(model, shared).eval()
        self._network.head.register_forward_hook(lambda head, inputs, output: torch.cat([output, inputs[0]], dim=1))
        self.device, self._session, self._pool = model.mean.device, None, None
        if self.device.type == "cpu":
            self._pool = ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))
            # VGG16's pooling to 7 x 7 has no counterpart there unless the sides are multiples
            if images * model.image_size**2 >= _MANY and model.arch != "vgg16" and find_spec("onnxruntime"):
                self._session = _session(self._network)

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (b, 14) and the input of the model's head (b, width), of images (b, 1, h, w), on the model's device.

        If the model's attribute `tta` is true, the scores are averages over the views of `dataset.shifted`.
        """
        both = [self._all(view) for view in (shifted(images) if self._network.tta else [images])]
        scores = torch.stack([each[:, : len(FINDINGS)].sigmoid() for each in both]).mean(dim=0)
        return scores, both[0][:, len(FINDINGS) :]

    def _all(self, images: torch.Tensor) -> torch.Tensor:
        if not self._pool:
            return self._compute(images.to(self.device, non_blocking=True))
        share = -(-len(images) // torch.get_num_threads())
        most = _PIECE_ONNX if self._session else _PIECE // images.shape[-2:].numel()
        pieces = images.split(max(1, min(share, most)))
        both = torch.cat(list(self._pool.map(self._compute, pieces)))
        torch.set_num_threads(torch.get_num_threads())  # the threads of the pool changed the default of later threads
        return both

    def _compute(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, and the input of the head: (b, 14 + width)."""
        if self._session:
            return torch.from_numpy(self._session.run(None, {"images": to_unit(images).numpy()})[0])
        with torch.inference_mode():
            return self._network(images)


def _session(network: ChestXrayModel):
    """The network in onnxruntime, on one core per call; None, with a warning, where torch cannot hand it over."""
    import onnxruntime  # an optional extra

    file, images = io.BytesIO(), torch.zeros(2, 1, network.image_size, network.image_size)
    try:
        with warnings.catch_warnings(action="ignore"):  # of an exporter that needs no package and takes a second
            torch.onnx.export(network, (images,), file, input_names=["images"],
                              dynamic_axes={"images": {0: "batch"}}, dynamo=False)  # fmt: skip
    except Exception as error:  # of any kind; only speed is lost
        warnings.warn(f"onnxruntime gets no network, which makes predictions slower: {error}", stacklevel=2)
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


def predict(model, dataset, batch_size: int = 64, accelerator=None, num_workers: int = 0, progress: bool = False):
    """Score every row of a dataset of `inputs.make_dataset` as `Engine` does; returns `Predictions` in its order.

    accelerator: shares out the batches to its processes, each of which gets all scores. num_workers: that read ahead.
    """
    loader = make_loader(dataset, batch_size, num_workers=num_workers)
    if accelerator is not None:
        loader = accelerator.prepare_data_loader(loader)
    engine, scores = Engine(model, len(dataset)), []
    with kept_memory():
        for images, _ in bar(loader, show=progress, desc="predict", unit=" batches", leave=False):
            batch, _ = engine(images)
            scores.append((accelerator.gather_for_metrics(batch) if accelerator is not None else batch).cpu())
    image, patient = (dataset.entries[column].to_numpy() for column in ("image", "patient"))
    return Predictions(torch.cat(scores).numpy(), dataset.labels.numpy(), image, patient)
