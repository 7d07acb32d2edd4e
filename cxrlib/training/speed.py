"""The fastest precision and memory layout for training, selected by a few timed steps at the start of a run.

Which is fastest depends on model and machine: on the same processor, bf16 can make DenseNet-121 twice as fast and
EfficientNet slower. It also halves the memory for activations. The timings for a model, size and machine are stored in
data/cache/speed.json, so that later runs start at once and make the same choice.
"""

import copy
import json
import platform
import re
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock

from cxrlib.core.errors import InputError
from cxrlib.core.paths import CACHE, write_json
from cxrlib.models.architectures import ChestXrayModel, in_mode
from cxrlib.training.config import TrainConfig
from cxrlib.training.memory import kept_memory, remembered_bytes

_BATCH = 16  # largest batch timed on a CPU
_GAIN = 1.1  # the speed-up that justifies the lower precision of bf16
_ROOM = 2.5 * 2**30  # bytes of activations in fp32 with which a process stays below 4 GiB


def choose(config: TrainConfig, model: ChestXrayModel, device: torch.device, show: bool = True) -> dict[str, str]:
    """Select {"precision": "fp32" or "bf16", "layout": "channels_last" or "contiguous"}.

    The configured values are used; those that are "auto" are selected by speed, except that on a CPU bf16 is used if
    fp32 would need over 4 GiB. The model is not changed. show: print the choice and the speeds.
    """
    precisions = ("fp32", "bf16") if config.precision == "auto" else (config.precision,)
    if config.precision == "auto" and device.type == "mps":  # no bf16 autocast on older systems
        precisions = ("fp32",)
    elif config.precision == "auto" and device.type == "cpu" and (remembers := _bytes_in_fp32(config, model)) > _ROOM:
        precisions = ("bf16",)
        if show:
            print(f"memory  bf16: in fp32 a batch of {config.batch_size} would keep {remembers / 2**30:.1f} GiB "
                  "(override with precision, or lower batch_size)")  # fmt: skip
    layouts = ("channels_last", "contiguous") if config.layout == "auto" else (config.layout,)
    options = [(precision, layout) for precision in precisions for layout in layouts]
    if len(options) == 1:
        return dict(zip(("precision", "layout"), options[0], strict=True))
    speeds = _remembered(config, model, options, device)
    best = max(speeds, key=lambda option: speeds[option] / (_GAIN if option.startswith("bf16") else 1))
    if show:
        values = ", ".join(f"{option} {speed:.0f}" for option, speed in speeds.items())
        print(f"speed   {best} (images/s: {values}; override with precision and layout)")
    return dict(zip(("precision", "layout"), best.split(), strict=True))


def images_per_second(model: ChestXrayModel, batch_size: int, precision: str, layout: str, device) -> float:
    """Training speed on random images, from the fastest of a few timed steps; lays the model out on the device."""
    model = model.lay_out(layout).to(device)
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

    with in_mode(model, training=True):
        return batch_size / fastest(step)


@kept_memory()
def fastest(step: Callable) -> float:
    """Seconds of the fastest of three calls, after one to warm up."""
    return min(timeit.repeat(step, number=1, repeat=4)[1:])


def _remembered(config: TrainConfig, model: ChestXrayModel, options, device: torch.device) -> dict[str, float]:
    """Images per second of each option, by "precision layout"; timed unless stored."""
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {_cpu()}"
    batch_size = min(config.batch_size, _BATCH) if device.type == "cpu" else config.batch_size
    batch_size = max(batch_size, 2)  # batch normalization needs two images
    about = f"{config.arch} {config.image_size} px batch {batch_size} on {chip}, torch {torch.__version__}"
    about += f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    path = CACHE / "speed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        known = _read(path)
        speeds = known.get(about, {})
        missing = [option for option in options if " ".join(option) not in speeds]
        for precision, layout in missing:
            try:
                speed = images_per_second(copy.deepcopy(model), batch_size, precision, layout, device)
            except torch.OutOfMemoryError:  # on a GPU; another option may fit
                torch.cuda.empty_cache()
                continue
            speeds[f"{precision} {layout}"] = round(speed, 1)
        if missing:
            write_json(path, known | {about: speeds})
    speeds = {" ".join(option): speeds[" ".join(option)] for option in options if " ".join(option) in speeds}
    if not speeds:
        raise InputError(f"a batch of {batch_size} images of {config.image_size} pixels needs more than "
                         f"{chip} has for {config.arch}; lower batch_size or image_size")  # fmt: skip
    return speeds


def _bytes_in_fp32(config: TrainConfig, model: ChestXrayModel) -> float:
    """Bytes of activations of a training step in fp32, extrapolated from two images."""
    images = torch.rand(2, 1, model.image_size, model.image_size)
    return remembered_bytes(copy.deepcopy(model).train(), images) * config.batch_size / 2


def _read(path: Path) -> dict[str, dict[str, float]]:
    """The stored timings; none if the file is missing or damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {about: {option: float(speed) for option, speed in each.items()} for about, each in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: *(.+)", info.read_text(encoding="utf-8")) if info.is_file() else None
    return named[1].strip() if named else platform.processor()
