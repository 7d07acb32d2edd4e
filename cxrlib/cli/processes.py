"""Several processes, which accelerate starts and connects: how many there are, and whether this is the first."""

import os
import re
import sys

import psutil


def count() -> int:
    """How many processes share this command's work; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process is the one that prints and writes for all."""
    return int(os.environ.get("RANK", 0)) == 0


def start_missing() -> None:
    """Start the CPU processes that `accelerate launch --num_processes N` was asked for and did not start.

    Without a GPU or MPI, accelerate silently starts one process (with --multi_gpu it starts several, on a CPU too).
    This process then becomes the launcher of all N, on this machine alone.
    """
    try:
        words = " ".join(psutil.Process().parent().cmdline())
    except (psutil.Error, AttributeError):
        return
    asked = re.search(r"\baccelerate\b.* --num[_-]processes[= ](\d+)", words)
    if asked and int(asked[1]) > 1 and "WORLD_SIZE" not in os.environ:
        print(f"accelerate launched one process where {asked[1]} were asked for; starting {asked[1]} on the CPU",
              flush=True)  # fmt: skip
        launcher = ["torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={asked[1]}"]
        os.execv(sys.executable, [sys.executable, "-m", *launcher, *sys.argv])
