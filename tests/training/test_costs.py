"""What an architecture costs: figures that can be checked by hand, each measured in a process of its own."""

import subprocess
import sys
import time

import psutil
import pytest

from cxrlib.models.architectures import build_model
from cxrlib.training.config import TrainConfig
from cxrlib.training.costs import COLUMNS, gflop, measure_costs


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


def test_no_process_outlives_the_one_that_was_killed():
    """The process that measures would wait for more work for ever."""
    code = """
from cxrlib.training.costs import measure_costs
from cxrlib.training.config import TrainConfig
if __name__ == "__main__":
    config = TrainConfig(arch="mobilenet_v2", weights="none", image_size=32, device="cpu", precision="fp32",
                         layout="channels_last")
    measure_costs({str(number): config for number in range(100)}, progress=False)
"""
    killed = psutil.Process(subprocess.Popen([sys.executable, "-c", code]).pid)
    until = time.monotonic() + 60
    while len(measuring := killed.children(recursive=True)) < 3 and time.monotonic() < until:
        time.sleep(0.05)  # the server that forks, the tracker of resources, and a process that measures
    assert len(measuring) >= 3
    killed.kill()
    killed.wait()
    assert psutil.wait_procs(measuring, timeout=20)[1] == []
