"""What an architecture costs: figures that can be checked by hand, each measured in a process of its own.

Then the timed choice of precision and layout: the faster one, remembered, and never against what was asked for.
"""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
import torch

from cxrlib.core.errors import InputError
from cxrlib.models.architectures import build_model
from cxrlib.training import costs
from cxrlib.training.config import TrainConfig
from cxrlib.training.costs import choose, images_per_second, measure_costs

CPU = torch.device("cpu")


@pytest.mark.parametrize(("arch", "published"), [("resnet18", 1.814), ("mobilenet_v2", 0.301)])
def test_operations_are_twice_the_published_multiply_adds(arch, published):
    """torchvision's table of weights, in 10^9 multiply-adds at 224 pixels; the head has 14 outputs, not 1,000."""
    small = {"batch_size": 2, "device": "cpu", "precision": "fp32", "layout": "channels_last"}
    assert measure_costs(TrainConfig(arch=arch, weights="none", **small))["gflop"] == pytest.approx(
        2 * published, rel=0.02
    )


def test_each_is_measured_for_itself():
    size = {"image_size": 32, "batch_size": 4, "device": "cpu", "precision": "fp32", "layout": "channels_last"}
    large, small = (measure_costs(TrainConfig(arch=arch, weights="none", **size)) for arch in ("vgg16", "mobilenet_v2"))
    assert list(large) == ["parameters", "gflop", "train_images_per_s", "images_per_s", "memory"]
    assert large["parameters"] == pytest.approx(134.3, abs=0.1)
    assert small["parameters"] == pytest.approx(2.24, abs=0.01)
    assert all(each["train_images_per_s"] < each["images_per_s"] for each in (large, small))
    # weights, gradients, two moments and the average of 134 million parameters
    assert large["memory"] - small["memory"] > 1.5, "not the peak of who came before"


def test_no_process_outlives_the_one_that_was_killed():
    """Neither the server that forks nor the process that measures."""
    code = """
from cxrlib.training.costs import measure_costs
from cxrlib.training.config import TrainConfig
if __name__ == "__main__":
    config = TrainConfig(arch="mobilenet_v2", weights="none", image_size=32, device="cpu", precision="fp32",
                         layout="channels_last")
    while True:
        measure_costs(config)
"""
    killed = psutil.Process(subprocess.Popen([sys.executable, "-c", code]).pid)
    until = time.monotonic() + 300
    while len(measuring := killed.children(recursive=True)) < 3 and time.monotonic() < until:
        time.sleep(0.05)  # the server that forks, the tracker of resources, and a process that measures
    assert len(measuring) >= 3
    killed.kill()
    killed.wait()
    assert psutil.wait_procs(measuring, timeout=300)[1] == []


class Deadly:
    """Kills the process that reads it."""

    def __reduce__(self):
        return os.abort, ()


def test_a_process_that_measures_and_is_killed_is_a_sentence(monkeypatch):
    monkeypatch.setattr(TrainConfig, "replace", lambda self, **_: Deadly())
    with pytest.raises(
        InputError, match="the process that measured the costs of mobilenet_v2 ended early, often because"
    ):
        measure_costs(config(device="cpu", precision="fp32", layout="contiguous"))


# ---- the choice of precision and layout ------------------------------------------------------------------------------
@pytest.fixture
def timed(tmp_path, monkeypatch):
    """Speeds by "precision layout" in place of timings, and what was timed."""
    speeds, asked = {}, []

    def images(model, batch_size, precision, layout, device):
        asked.append(f"{precision} {layout}")
        return speeds[asked[-1]]

    monkeypatch.setattr(costs, "CACHE", tmp_path)
    monkeypatch.setattr(costs, "images_per_second", images)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    return speeds, asked


def config(**values):
    return TrainConfig(arch="mobilenet_v2", weights="none", image_size=32, batch_size=4, **values)


def test_what_does_not_fit_is_not_chosen(timed, monkeypatch):
    speeds, _ = timed
    fits = costs.images_per_second

    def small(model, batch_size, precision, layout, device):
        if precision not in speeds["fit"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fits(model, batch_size, precision, layout, device)

    monkeypatch.setattr(costs, "images_per_second", small)
    model = build_model("mobilenet_v2", "none", 32)
    speeds |= {"bf16 channels_last": 5.0, "bf16 contiguous": 4.0, "fit": ["bf16"]}
    assert choose(config(), model, CPU) == {"precision": "bf16", "layout": "channels_last"}
    speeds["fit"] = []
    with pytest.raises(InputError, match="lower batch_size or image_size"):
        choose(config(precision="fp32"), model, CPU)


@pytest.mark.parametrize(
    ("best", "figures"),
    [
        ("fp32 channels_last", (50.0, 40.0, 54.0, 30.0)),  # bf16 rounds, and has to be worth that
        ("bf16 channels_last", (50.0, 40.0, 56.0, 30.0)),
        ("fp32 contiguous", (50.0, 70.0, 60.0, 65.0)),
        ("bf16 contiguous", (50.0, 40.0, 56.0, 90.0)),
    ],
)
def test_the_fastest_is_chosen_said_and_remembered(timed, capsys, tmp_path, best, figures):
    speeds, asked = timed
    names = ("fp32 channels_last", "fp32 contiguous", "bf16 channels_last", "bf16 contiguous")
    speeds |= dict(zip(names, figures, strict=True))
    chosen = choose(config(), build_model("mobilenet_v2", "none", 32), CPU)
    assert " ".join(chosen.values()) == best
    assert sorted(asked) == sorted(speeds)
    said = capsys.readouterr().out
    assert said.startswith(f"speed   {best} (images/s: ")
    assert all(f"{name} {value:.0f}" in said for name, value in speeds.items())

    speeds.clear()  # timings waver; the next run must not
    assert choose(config(), build_model("mobilenet_v2", "none", 32), CPU, show=False) == chosen
    assert len(asked) == 4
    assert capsys.readouterr().out == ""
    with pytest.raises(KeyError):  # another batch size is another question
        choose(
            TrainConfig(arch="mobilenet_v2", image_size=32, batch_size=5), build_model("mobilenet_v2", "none", 32), CPU
        )


def test_bf16_is_not_timed_where_the_processor_cannot_compute_it(timed, monkeypatch):
    """One step of VGG16 took minutes there."""
    speeds, asked = timed
    speeds |= {"fp32 channels_last": 2.0, "fp32 contiguous": 1.0}
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    model = build_model("mobilenet_v2", "none", 32)
    assert choose(config(), model, CPU) == {"precision": "fp32", "layout": "channels_last"}
    assert sorted(asked) == sorted(speeds)
    assert choose(config(precision="bf16", layout="contiguous"), model, CPU)["precision"] == "bf16", "as asked for"


def test_what_was_asked_for_is_not_timed(timed):
    speeds, asked = timed
    model = build_model("mobilenet_v2", "none", 32)
    chosen = choose(config(precision="bf16", layout="contiguous"), model, CPU)
    assert chosen == {"precision": "bf16", "layout": "contiguous"}
    assert asked == []
    speeds |= {"fp32 channels_last": 1.0, "fp32 contiguous": 2.0}
    assert choose(config(precision="fp32"), model, CPU)["layout"] == "contiguous"


def test_a_precision_that_needs_more_memory_than_is_free_is_left_out(timed, monkeypatch, capsys):
    speeds, asked = timed
    speeds |= {"fp32 channels_last": 9.0, "fp32 contiguous": 8.0, "bf16 channels_last": 2.0, "bf16 contiguous": 1.0}
    model = build_model("mobilenet_v2", "none", 32)
    needs = {precision: costs.memory_needed(model, 4, precision) for precision in ("fp32", "bf16")}
    assert needs["bf16"] < needs["fp32"]
    for free, expected in ((needs["fp32"] * 1.3, "fp32"), (needs["fp32"] * 1.2, "bf16"), (1000, "bf16")):
        asked.clear()
        monkeypatch.setattr(costs, "free_memory", lambda free=free: free)
        assert choose(config(), model, CPU)["precision"] == expected
        assert ("GiB are free" in capsys.readouterr().out) == (expected == "bf16")
    monkeypatch.setattr(costs, "free_memory", lambda: 0)
    assert choose(config(precision="fp32"), model, CPU)["precision"] == "fp32", "what was asked for is taken"


def test_the_memory_that_training_needs_grows_with_the_batch_and_holds_the_optimizer():
    model = build_model("mobilenet_v2", "none", 64)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    one, two, three = (costs.memory_needed(model, batch, "fp32") for batch in (10, 20, 30))
    assert one < two
    assert three - two == pytest.approx(two - one, abs=2)
    assert 2 * one - two == pytest.approx(16 * sum(weight.numel() for weight in model.parameters()), abs=2)
    # each image keeps at least the input and the output of its first convolution, in 4 bytes
    assert (two - one) / 10 > 4 * (3 * 64 * 64 + 32 * 32 * 32)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    large = build_model("resnet18", "none", 32)  # of 45 MB, which are kept once and not for each image
    for precision in ("fp32", "bf16"):
        assert (costs.memory_needed(large, 20, precision) - costs.memory_needed(large, 10, precision)) / 10 < 4e6


@pytest.mark.parametrize("content", ["", '{"a": {"fp32 conti', "\x00" * 9])
def test_a_file_in_pieces_is_timed_anew(timed, tmp_path, content):
    speeds, asked = timed
    speeds |= {"fp32 channels_last": 1.0, "fp32 contiguous": 2.0}
    (tmp_path / "speed.json").write_text(content)
    assert choose(config(precision="fp32"), build_model("mobilenet_v2", "none", 32), CPU)["layout"] == "contiguous"
    assert len(asked) == 2
    assert len(json.loads((tmp_path / "speed.json").read_text())) == 1


def test_the_timed_steps_are_real_and_change_no_weight():
    model = build_model("mobilenet_v2", "none", 32)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for precision in ("fp32", "bf16"):
        for layout in ("channels_last", "contiguous"):
            assert 0 < images_per_second(model, 4, precision, layout, CPU) < 1e6
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
