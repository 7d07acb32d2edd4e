"""Several processes, which accelerate starts and connects: which is first, starting and parting."""

import os
import re
import sys

import psutil


def is_first() -> bool:
    """Whether this process is the one that prints and writes for all."""
    return int(os.environ.get("RANK", 0)) == 0


def several() -> bool:
    """Whether processes share the work."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def start_missing() -> None:
    """Start the N processes of `accelerate launch --num_processes N`, which starts one where it finds no GPU or MPI."""
    try:
        words = " ".join(psutil.Process().parent().cmdline())
    except (psutil.Error, AttributeError):
        return
    asked = re.search(r"\baccelerate\b.* --num[_-]processes[= ](\d+)", words)
    if asked and (wanted := int(asked[1])) > 1 and "WORLD_SIZE" not in os.environ:
        print(f"accelerate launched one process of {wanted}; starting {wanted} on the CPU", flush=True)
        launcher = ["torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={wanted}"]
        os.execv(sys.executable, [sys.executable, "-m", *launcher, *sys.argv])


def leave() -> None:
    """Part from the other processes; of those that only end, Gloo's threads abort one in four."""
    connected = getattr(sys.modules.get("torch"), "distributed", None)
    if connected and connected.is_available() and connected.is_initialized():
        connected.destroy_process_group()
