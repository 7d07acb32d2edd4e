"""The costs of an architecture: parameters, operations, images per second and memory."""

import multiprocessing
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from cxrlib.core.progress import bar
from cxrlib.models.architectures import ChestXrayModel, build_model, in_mode
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import pick_device
from cxrlib.training.optimization import EMA
from cxrlib.training.speed import choose, fastest, images_per_second

COLUMNS = ("parameters", "gflop", "train_images_per_s", "images_per_s", "memory")


def measure_costs(configs: dict[str, TrainConfig], progress: bool = True) -> pd.DataFrame:
    """Measure the costs of each config, one row per name.

    Columns:
    parameters          millions
    gflop               10^9 floating-point operations of a forward pass of one image; a multiply-add counts two
    train_images_per_s  forward, backward and optimizer step, in the config's precision and layout, on its device
    images_per_s        forward pass only, in evaluation mode and full precision, as in predictions
    memory              peak GiB of training: of the GPU or, on a CPU, of the whole process including libraries

    Each is measured in a fresh process, because the peak memory of a process includes its earlier models.
    """
    rows = {}
    for name, config in bar(configs.items(), show=progress, desc="costs", unit=" models", leave=False):
        model = build_model(config.arch, "none", config.image_size)
        choice = choose(config, model, torch.device(pick_device(config.device)), show=False)
        config = config.replace(**choice, weights="none")
        with ProcessPoolExecutor(1, _context(), _end_with_parent) as fresh:
            rows[name] = fresh.submit(_measure, config).result()
    return pd.DataFrame(rows, index=list(COLUMNS)).T


def gflop(model: ChestXrayModel) -> float:
    """10^9 floating-point operations of a forward pass of one image; a multiply-add counts two."""
    image = torch.zeros(1, 1, model.image_size, model.image_size, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter, in_mode(model), torch.inference_mode():
        model(image)
    return counter.get_total_flops() / 1e9


def _measure(config: TrainConfig) -> list[float]:
    """The columns of `measure_costs`, measured in a fresh process."""
    device = torch.device(pick_device(config.device))
    model = build_model(config.arch, "none", config.image_size).to(device)
    average = EMA(model, config.ema_decay)  # counts towards the memory
    training = images_per_second(model, config.batch_size, config.precision, config.layout, device)
    memory = _peak_gib(device)
    millions = sum(parameter.numel() for parameter in average.model.parameters()) / 1e6
    model, x = model.lay_out("channels_last"), torch.rand(config.batch_size, 1, *2 * [config.image_size], device=device)
    with in_mode(model), torch.inference_mode():
        forward = config.batch_size / fastest(lambda: model(x).cpu())  # .cpu() waits for a GPU
    return [millions, gflop(model), training, forward, memory]


def _context():
    """The multiprocessing context: if available, a fork server that has only imported the libraries."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cxrlib.training.costs"])
    return context


def _end_with_parent() -> None:
    """End this process when its parent ends, even if the parent was killed."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return float("nan")  # Windows has no getrusage
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
