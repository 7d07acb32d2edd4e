"""What a training costs in operations, time and memory, and which precision and memory layout are fastest."""

import copy
import multiprocessing
import platform
import re
import resource
import sys
import timeit
from collections.abc import Callable
from pathlib import Path

import torch

from cxrlib.core.errors import InputError
from cxrlib.core.paths import CACHE, one_process, read_json, write_json
from cxrlib.models.architectures import ChestXrayModel, build_model
from cxrlib.training.config import TrainConfig
from cxrlib.training.device import free_memory, kept_memory, pick_device
from cxrlib.training.inference import Engine

_BATCH = 16  # largest batch timed on a CPU
_GAIN = 1.1  # the speed-up that justifies the lower precision of bf16
_COMFORT = 0.8  # share of the free memory that a training may need


def choose(config: TrainConfig, model: ChestXrayModel, device: torch.device, show: bool = True) -> dict[str, str]:
    """The precision and layout configured; "auto" by speed, on a CPU among what fits into memory. show: print it."""
    precisions = ["fp32"] if device.type == "mps" else ["fp32", "bf16"]  # no bf16 autocast on older systems
    precisions = precisions if config.precision == "auto" else [config.precision]
    if device.type == "cpu" and len(precisions) > 1:
        free = free_memory()
        needs = {name: memory_needed(model, config.batch_size, name) for name in precisions}
        precisions = [name for name in needs if needs[name] <= _COMFORT * free] or [min(needs, key=needs.get)]
        if show and len(precisions) < len(needs):
            of_each = ", ".join(f"{name} {need / 2**30:.1f}" for name, need in needs.items())
            print(f"memory  {' '.join(precisions)}, since {free / 2**30:.1f} GiB are free (GiB needed: {of_each})")
        if torch.backends.cpu.get_cpu_capability() == "AVX2":  # where a step in bf16 takes up to minutes
            precisions = precisions[:1]
    layouts = ("channels_last", "contiguous") if config.layout == "auto" else (config.layout,)
    [best, *others] = options = [f"{precision} {layout}" for precision in precisions for layout in layouts]
    if others:
        speeds = _speeds(config, model, options, device)
        best = max(speeds, key=lambda option: speeds[option] / (_GAIN if option.startswith("bf16") else 1))
        if show:
            values = ", ".join(f"{option} {speed:.0f}" for option, speed in speeds.items())
            print(f"speed   {best} (images/s: {values}; override with precision and layout)")
    return dict(zip(("precision", "layout"), best.split(), strict=True))


def memory_needed(model: ChestXrayModel, batch_size: int, precision: str) -> int:
    """Bytes that training takes on a CPU beside the weights, with a quarter more than a forward pass keeps."""
    model = copy.deepcopy(model).train()  # whose batch normalization would follow

    def kept(images: int) -> int:
        sizes = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        noted = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with noted, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            _held = model(torch.zeros(images, 1, model.image_size, model.image_size))  # so that no place is used twice
        return sum(sizes.values())

    few, more = kept(2), kept(4)  # the weights are among both
    # the last: gradients, two moments and averaged weights
    return round(1.25 * batch_size * (more - few) / 2 + 16 * sum(weight.numel() for weight in model.parameters()))


def images_per_second(model: ChestXrayModel, batch_size: int, precision: str, layout: str, device) -> float:
    """Training speed on random images, from the fastest of a few timed steps of the model itself, weights unchanged."""
    model = model.lay_out(layout).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, fused=device.type != "mps")
    x = torch.rand(batch_size, 1, model.image_size, model.image_size, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(x)
        logits.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return batch_size / _fastest(step)


def measure_costs(config: TrainConfig) -> dict[str, float]:
    """The costs of a training, measured in a fresh process, as the peak memory of a process includes earlier models.

    parameters: millions. gflop: 10^9 operations of a forward pass of one image; a multiply-add counts two.
    train_images_per_s: forward, backward and optimizer step, in the config's precision and layout, on its device;
    images_per_s: forward pass only, in full precision, as in predictions of many images.
    memory: peak GiB of training, of the GPU or, on a CPU, of the whole process including libraries.
    """
    model = build_model(config.arch, "none", config.image_size)
    choice = choose(config, model, torch.device(pick_device(config.device)), show=False)
    context = multiprocessing.get_context("forkserver")  # which has only imported the libraries
    context.set_forkserver_preload([__name__])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(config.replace(**choice, weights="none"), there), daemon=True)
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise InputError(f"the process that measured the costs of {config.arch} ended early, often because memory "
                         "ran out; lower batch_size or image_size") from None  # fmt: skip
    finally:
        process.join()


@kept_memory()
def _fastest(step: Callable) -> float:
    """Seconds of the fastest of three calls, after one to warm up."""
    return min(timeit.repeat(step, number=1, repeat=4)[1:])


def _speeds(config: TrainConfig, model: ChestXrayModel, options: list[str], device: torch.device) -> dict[str, float]:
    """Images per second of each option, "precision layout", that fits in memory; timed unless an earlier run did so."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: *(.+)", info.read_text(encoding="utf-8")) if info.is_file() else None
    cpu = f"{platform.machine()} {named[1].strip() if named else platform.processor()}"
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    batch_size = min(config.batch_size, _BATCH) if device.type == "cpu" else config.batch_size
    about = f"{config.arch} {config.image_size} px batch {batch_size} on {chip}, torch {torch.__version__}"
    about += f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    path = CACHE / "speed.json"
    with one_process(path.with_suffix(".lock")):
        known = read_json(path)
        speeds = known.setdefault(about, {})
        for option in (option for option in options if option not in speeds):
            try:
                speeds[option] = round(images_per_second(copy.deepcopy(model), batch_size, *option.split(), device), 1)
            except torch.OutOfMemoryError:  # on a GPU; another option may fit
                torch.cuda.empty_cache()
        write_json(path, known)
    if not any(option in speeds for option in options):
        raise InputError(f"a batch of {batch_size} images of {config.image_size} pixels needs more than "
                         f"{chip} has for {config.arch}; lower batch_size or image_size")  # fmt: skip
    return {option: speeds[option] for option in options if option in speeds}


def _measure(config: TrainConfig, there) -> None:
    """Send the result of `measure_costs`."""
    device = torch.device(pick_device(config.device))
    model = build_model(config.arch, "none", config.image_size).to(device)
    average = copy.deepcopy(model)  # a training has one, which counts towards the memory
    training = images_per_second(model, config.batch_size, config.precision, config.layout, device)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    millions = sum(parameter.numel() for parameter in average.parameters()) / 1e6
    x = torch.rand(config.batch_size, 1, *2 * [config.image_size], device=device)
    engine = Engine(model.lay_out("channels_last"), 10**6)
    forward = config.batch_size / _fastest(lambda: engine(x)[0].cpu())  # .cpu() waits for a GPU
    from torch.utils.flop_counter import FlopCounterMode  # here, since it takes half a second, and memory

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(x[:1])
    there.send({"parameters": millions, "gflop": counter.get_total_flops() / 1e9, "train_images_per_s": training,
                "images_per_s": forward, "memory": peak / 2**30})  # fmt: skip
