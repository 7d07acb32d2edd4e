"""A trained model as an ONNX file: bytes in; scores, calibrated probabilities and what heat maps are made from out.

The input `images` is uint8 (batch, 1, side, side): whole radiographs in grey, air dark, resized to image_size of the
metadata, bilinearly with antialiasing, as Pillow does. All that follows is in the graph.

Outputs, all float32:
    logits, scores   (batch, 14), in the order of the findings in the metadata; scores are the sigmoids (of a model with
                     test-time averaging, their mean over its five views)
    probabilities    (batch, 14), the calibrated scores, to be compared with the thresholds in the metadata
    features         (batch, channels, h, w), the last grid, which Grad-CAM reads
    maps             (batch, 14, h, w), only where the head reads the average of that grid: sum over channels of the
                     head's weights * features, so that the mean of a map plus the bias is the logit (Zhou et al. 2016).
                     relu(maps), enlarged bilinearly and divided by its highest value, is Grad-CAM's map. (DenseNet-121
                     has a ReLU between the layer that Grad-CAM reads and the average; its features are those after it.)

For VGG-16 and ViT-B/16 the gradient depends on the image: their maps need PyTorch (`cxr predict`, `cxr gradcam`).
"""

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cxrlib.core.errors import InputError
from cxrlib.core.paths import written_whole
from cxrlib.data.dataset import shifted
from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.calibration import Calibrator, operating_points
from cxrlib.explain.gradcam import as_grid
from cxrlib.models.architectures import ARCHITECTURES, ChestXrayModel, model_from_checkpoint


def export(checkpoint: dict, path: str | Path) -> Path:
    """Write a checkpoint (`load_checkpoint`) as ONNX, atomically, and return the path.

    The metadata of the file, all text: arch, image_size, findings (JSON list), thresholds (JSON list on the
    probabilities; null where none is tuned), calibration (its method), about. InputError without the extra `onnx`.
    """
    model = model_from_checkpoint(checkpoint).lay_out("contiguous")
    [calibrator], thresholds = operating_points([checkpoint.get("calibration")], checkpoint.get("thresholds"))
    graph = _Graph(model, calibrator).eval()
    example = torch.zeros(2, 1, model.image_size, model.image_size, dtype=torch.uint8)
    batch = {"images": {0: torch.export.Dim("batch")}}
    try:
        with warnings.catch_warnings(action="ignore"):  # of the exporter, about itself
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(graph, (example,), dynamo=True, dynamic_shapes=batch, input_names=["images"],
                                        output_names=graph.outputs, verbose=False)  # fmt: skip
    except ImportError as error:  # torch names the package
        raise InputError(f"a package for ONNX is missing ({error}); pip install -e '.[onnx]'") from None
    tuned = [None] * len(FINDINGS) if thresholds is None else np.where(thresholds.tuned, thresholds.values, None)
    program.model.metadata_props.update(
        arch=model.arch, image_size=str(model.image_size), findings=json.dumps(FINDINGS),
        thresholds=json.dumps(list(tuned)), calibration=calibrator.method, about=f"{__doc__}\nNot for diagnosis."
    )  # fmt: skip
    with written_whole(path) as beside:
        program.save(beside, external_data=False)
    return Path(path)


class _Graph(nn.Module):
    """What the file computes; `outputs` are the names of what it returns."""

    def __init__(self, model: ChestXrayModel, calibrator: Calibrator):
        super().__init__()
        self.model, self.isotonic = model, calibrator.method == "isotonic"
        self.outputs = ["logits", "scores", "probabilities", "features"]
        self.outputs += ["maps"] if ARCHITECTURES[model.arch].pooled else []
        lines = [(one.get("slope", 1.0), one.get("intercept", 0.0)) for one in calibrator.maps]
        self.register_buffer("lines", torch.tensor(lines, dtype=torch.float64).T)  # (2, 14)
        knots = [(one.get("scores", [0.0, 1.0]), one.get("values", [0.0, 1.0])) for one in calibrator.maps]
        most = max(len(scores) for scores, _ in knots)
        padded = [[np.pad(each, (0, most - len(each)), mode="edge") for each in pair] for pair in knots]
        self.register_buffer("knots", torch.from_numpy(np.stack(padded, axis=1)).double())  # (2, 14, most)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = []
        with self.model.cam_layer.register_forward_hook(lambda _, inputs, output: kept.append(output)):
            logits = self.model(images)
        views = shifted(images) if self.model.tta else ()
        scores = torch.stack([self.model(view).sigmoid() for view in views]).mean(dim=0) if views else logits.sigmoid()
        features = as_grid(kept[0])  # DenseNet-121 has by now written its ReLU into them
        outputs = [logits, scores, self.calibrated(scores), features]
        if "maps" in self.outputs:
            outputs.append(torch.einsum("kc,bchw->bkhw", self.model.head.weight, features))
        return tuple(outputs)

    def calibrated(self, scores: torch.Tensor) -> torch.Tensor:
        """As `Calibrator.calibrate`, in float64: sigmoids of lines on the logit, or sums of ramps between knots."""
        x = scores.double()
        if not self.isotonic:
            slope, intercept = self.lines
            return (slope * x.logit(1e-7) + intercept).sigmoid().float()
        at, values = self.knots
        share = (x[..., None] - at[:, :-1]) / at.diff().clamp(min=1e-12)  # those that pad have no rise
        return (values[:, 0] + (share.clamp(0, 1) * values.diff()).sum(dim=-1)).float()
