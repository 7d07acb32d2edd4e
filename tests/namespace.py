"""Commands in a mount namespace of their own, where a test may mount what it likes: Linux only."""

import os
import subprocess

_UNSHARE = ["unshare", "--mount", *(["--map-root-user"] if hasattr(os, "geteuid") and os.geteuid() else [])]


def may_mount() -> bool:
    """Whether `mounted` works here."""
    try:
        return subprocess.run(mounted("mount -t tmpfs tmpfs /tmp", ["true"]), capture_output=True).returncode == 0
    except OSError:  # no unshare: not Linux
        return False


def mounted(mounts: str, command: list[str]) -> list[str]:
    """The command, run after the shell commands `mounts`, which nobody else sees."""
    return [*_UNSHARE, "sh", "-ec", f'{mounts}\nexec "$@"', "sh", *map(str, command)]
