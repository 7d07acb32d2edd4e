"""Is a notebook fit to be committed? Shared by the tests and by the pre-commit hook; needs nothing but Python.

python tests/notebooks/check.py FILE...     looks at files
python tests/notebooks/check.py --staged    looks at what the next commit changes, as .githooks/pre-commit does
"""

import json
import re
import subprocess
import sys
from pathlib import Path

LARGEST = 1_500_000  # bytes of a notebook
LONGEST = 100  # lines of an output
_MACHINE = re.compile(r"(?<![\w./])(?:/(?:home|root|Users|tmp|work|private|mnt|var|opt)/\w|[A-Z]:\\\\?\w)")
_WARNING = re.compile(r"\b\w*Warning\b:?")
_RADIOGRAPH = re.compile(r"(?:^|/)000[0-3]\d{4}_\d{3}\.(?:png|jpe?g)$")  # NIH's patients go up to 30,805


def faults(text: str) -> list[str]:
    """What speaks against committing a notebook, one sentence each; nothing for a clean one."""
    try:
        notebook = json.loads(text)
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    except (ValueError, KeyError, TypeError) as error:
        return [f"it is no notebook ({error})"]
    found = []
    if len(text.encode()) >= LARGEST:
        found.append(f"it has {len(text.encode()):,} bytes, {LARGEST:,} are the limit; show fewer or smaller pictures")
    kernel = notebook["metadata"].get("kernelspec", {}).get("name")
    if kernel != "python3":
        found.append(f"its kernel is {kernel!r}, not 'python3'")
    if "widgets" in notebook["metadata"]:
        found.append("it holds the state of widgets; clear metadata.widgets")
    counts = [cell.get("execution_count") for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append("it was not executed from top to bottom; restart and run all, or make notebooks")
    for cell in code:
        found += [f"In [{cell.get('execution_count')}] {fault}" for fault in _of_cell(cell)]
    for cell in notebook["cells"]:
        if path := _MACHINE.search("".join(cell["source"])):
            found.append(f"a cell names a path of one machine ({path.group()}...)")
    return found


def _of_cell(cell: dict) -> list[str]:
    found = []
    for output in cell.get("outputs", []):
        if output["output_type"] == "error":
            found.append(f"ends in an error ({output.get('ename')})")
        if output.get("name") == "stderr":
            found.append("writes to stderr")
        for kind, text in texts(output).items():
            if kind == "text/plain" and len(text.splitlines()) > LONGEST:
                found.append(f"prints {len(text.splitlines())} lines, {LONGEST} are the limit")
            if path := _MACHINE.search(text):
                found.append(f"shows a path of one machine ({path.group()}...)")
            if warning := _WARNING.search(text):
                found.append(f"shows a warning ({warning.group()})")
    return list(dict.fromkeys(found))


def texts(output: dict) -> dict[str, str]:
    """What of an output is text, by its kind: a stream, an error's traceback, the text forms of what is displayed."""
    if "text" in output:
        return {"text/plain": "".join(output["text"])}
    if output["output_type"] == "error":
        return {"text/plain": "\n".join(output.get("traceback", []))}
    return {kind: "".join(text) for kind, text in output.get("data", {}).items() if kind.startswith("text/")}


def _staged() -> dict[str, str]:
    """{path: content in the index} of the notebooks that the next commit changes."""
    return {path: _git("show", f":{path}") for path in _changed() if re.fullmatch(r"notebooks/[^/]+\.ipynb", path)}


def _changed() -> list[str]:
    return [path for path in _git("diff", "--cached", "--name-only", "-z", "--diff-filter=ACMR").split("\0") if path]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout.decode("utf-8")


def main(arguments: list[str]) -> int:
    """Print every fault; 1 where there is one."""
    if arguments == ["--staged"]:
        notebooks = _staged()
        radiographs = [path for path in _changed() if _RADIOGRAPH.search(path)]
    else:
        notebooks = {path: Path(path).read_text(encoding="utf-8") for path in arguments}
        radiographs = []
    lines = [f"{path}: {fault}" for path, text in notebooks.items() for fault in faults(text)]
    lines += [f"{path}: is named like a radiograph of a patient; none is committed" for path in radiographs]
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
