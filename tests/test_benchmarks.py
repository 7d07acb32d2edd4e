"""The benchmarks run: made small here, where only their work matters and not their speed."""

from contextlib import ExitStack

import pytest
import torch

from benchmarks import bench_input, bench_predict, bench_training
from cxrlib.data.cache import ImageCache
from cxrlib.training import costs


@pytest.fixture
def small(monkeypatch):
    for module in (bench_input, bench_predict):
        monkeypatch.setattr(module, "SIDE", 64)
        monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(bench_predict, "FILES", 6)
    monkeypatch.setattr(bench_predict, "ARCH", "mobilenet_v2")


def test_predicting_files(small, tmp_path, capfd):
    rows = bench_predict.predicting_files(tmp_path)
    assert set(rows) == {"cxr predict, slower part", "cxr predict, both parts"}
    assert all(row["ratio"] > 0 and "6 PNGs" in row["detail"] for row in rows.values())


def test_memory_of_a_training(small, tmp_path, monkeypatch, capsys):
    cache = bench_training.random_cache(tmp_path, 20, 64)
    assert isinstance(cache, ImageCache)
    monkeypatch.setattr(costs, "free_memory", costs.free_memory)  # which the benchmark replaces for its process
    bench_input.train_once(cache)
    assert int(capsys.readouterr().out.split()[-1]) > 2**27


@pytest.mark.parametrize("step", [bench_training.our_step, bench_training.plain_step])
def test_training_steps(step, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_training, "SIDE", 64)
    torch.manual_seed(0)
    with ExitStack() as kept:  # for the life of the process, in a benchmark
        monkeypatch.setattr(bench_training, "_kept", kept)
        step("mobilenet_v2", 4, tmp_path)()
