"""The lower bounds of pyproject.toml as constraints for pip: `make test-oldest` installs these and runs the suite."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9][0-9A-Za-z.]*)")


def lower_bounds() -> dict[str, str]:
    """The oldest version that pyproject.toml allows of each of its dependencies: {"torch": "2.9", ...}."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    bounds = {}
    for text in wanted:
        match = _REQUIREMENT.fullmatch(text.strip())
        if not match:
            raise SystemExit(f"{text!r} in pyproject.toml has no lower bound; expected name>=version")
        bounds[match[1]] = match[2]
    return bounds


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in lower_bounds().items()))
