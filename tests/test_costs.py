"""What an architecture costs: figures that can be checked by hand, each measured in a process of its own."""

import pytest

from cxrlib.costs import COLUMNS, gflop, measure_costs
from cxrlib.models import build_model
from cxrlib.recipe import TrainConfig


@pytest.mark.parametrize(("arch", "published"), [("resnet18", 1.814), ("mobilenet_v2", 0.301)])
def test_operations_are_twice_the_published_multiply_adds(arch, published):
    """torchvision's table of weights, in 10^9 multiply-adds at 224 pixels; the head has 14 outputs, not 1,000."""
    assert gflop(build_model(arch, "none", 224)) == pytest.approx(2 * published, rel=0.02)


def test_each_is_measured_for_itself():
    size = {"image_size": 32, "batch_size": 4, "device": "cpu", "precision": "fp32", "layout": "channels_last"}
    configs = {name: TrainConfig(arch=arch, weights="none", **size)
               for name, arch in (("large", "vgg16"), ("small", "mobilenet_v2"))}  # fmt: skip
    costs = measure_costs(configs, progress=False)
    assert list(costs.columns) == list(COLUMNS)
    assert list(costs.index) == ["large", "small"]
    assert costs.loc["large", "parameters"] == pytest.approx(134.3, abs=0.1)
    assert costs.loc["small", "parameters"] == pytest.approx(2.24, abs=0.01)
    assert (costs["train_images_per_s"] < costs["images_per_s"]).all()
    # weights, gradients, two moments and the average of 134 million parameters
    assert costs.loc["large", "memory"] - costs.loc["small", "memory"] > 1.5, "not the peak of who came before"
