"""Speed of the heat maps: fourteen findings of sixteen radiographs, EfficientNet-B0 at 224 pixels.

    python -m benchmarks bench_gradcam

Against captum's Grad-CAM, called once a finding, and against one forward pass of the model, which is the least that
any map costs.
"""

import captum.attr
import torch

from benchmarks.timing import fastest
from cxrlib.data.findings import FINDINGS
from cxrlib.explain.gradcam import METHODS, grad_cam, raw_maps
from cxrlib.models.architectures import build_model

BATCH, SIDE, TIMES = 16, 224, 5


def benchmark() -> dict[str, dict]:
    """Rows {name: {"ratio", "goal", "detail"}}; a ratio to one forward pass reaches its goal where it is below it."""
    torch.manual_seed(0)
    model = build_model("efficientnet_b0", "none", SIDE).eval()
    x = torch.randint(0, 256, (BATCH, 1, SIDE, SIDE), dtype=torch.uint8)
    unit = x.float() / 255
    peer = captum.attr.LayerGradCam(model, model.cam_layer)

    def one_by_one() -> torch.Tensor:
        return torch.cat([peer.attribute(unit, target=k).detach() for k in range(len(FINDINGS))], dim=1)

    def forward() -> None:
        with torch.inference_mode():
            model(x)

    torch.testing.assert_close(raw_maps(model, x)[0], one_by_one(), atol=1e-4, rtol=1e-4)  # the same, and warm
    once, theirs = fastest(forward, TIMES), fastest(one_by_one, TIMES)
    ours = {method: fastest(lambda method=method: grad_cam(model, x, method=method), TIMES) for method in METHODS}
    how = f"{ours['gradcam']:.2f} s against {theirs:.2f} s of captum, finding by finding"
    rows = {"gradcam_speedup": {"ratio": theirs / ours["gradcam"], "goal": ">= 8", "detail": how}}
    for method, taken in ours.items():
        detail = f"{taken:.2f} s, fourteen maps of {BATCH} radiographs; one forward pass {once:.2f} s"
        rows[f"{method}_per_forward"] = {"ratio": taken / once, "goal": "<= 1.5", "detail": detail}
    return rows
