"""Which outputs of the notebooks nbval compares to the letter, which not, and why not.

python -m tests.notebooks.compared           prints the list of those that are not compared
python -m tests.notebooks.compared --write   writes it to not_compared.md, as make notebooks does, and keeps the scores
                                             that notebooks 04 and 05 were executed with
"""

import ast
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE.parents[1] / "notebooks"
LIST = HERE / "not_compared.md"
STORED = HERE / "stored"  # the scores that 04 and 05 were executed with: training gives others on another machine
_OF_A_MEMBER = ("predictions_test.npz", "member.json", "history.csv")  # of a comparison: what tells that it is finished
# what a cell calls -> why what it shows differs between machines
_MOVES = {
    r"\bfit\(|\bfit_\w+\(|\bcompare\(|\bcompare_\w+\(|\blearning_curve\(": "training moves it",
    r"load_checkpoint|model_from_checkpoint|grad_cam|cam_": "a trained network's numbers",
    r"\bbuild_model\(": "a network's numbers depend on the processor",
    r"\bperf_counter\b|\b\w+_costs\(|\bspeed\b|images_per_s": "a time on this machine",
    r"Predictions\.load|\.predictions\(": "a trained network's scores",
}
_HERE_ONLY = {r"\bbuild_cache\(": "what is in the cache already depends on this machine"}


@dataclass(frozen=True)
class Output:
    """A code cell with output. reason: why it is not compared; "" where it is."""

    notebook: str
    count: int
    line: str
    compared: bool
    reason: str
    asserts: bool


def outputs(path: Path) -> list[Output]:
    """Every code cell of a notebook that has output, in order."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    moved, found = {}, []
    for cell in cells:
        if cell["cell_type"] != "code" or not (source := "".join(cell["source"])).strip():
            continue
        why = _why(source, moved)
        moved |= dict.fromkeys(_names(source, ast.Store), why) if why else {}
        here = next((reason for call, reason in _HERE_ONLY.items() if re.search(call, source)), "")
        if cell["outputs"]:
            compared = _compared(cell)
            reason = "" if compared else cell["metadata"].get("not_compared") or _picture(cell) or why or here
            line = next(line for line in reversed(source.split("\n")) if line.strip())
            found.append(
                Output(path.stem, cell["execution_count"], line.strip(), compared, reason, "assert " in source)
            )
    return found


def table(every: list[Output]) -> str:
    """The list for readers, in Markdown."""
    kept = [output for output in every if not output.compared]
    lines = [
        "# What nbval does not compare",
        "",
        f"Of {len(every)} cells with output, {len(every) - len(kept)} are compared to the letter. These are not; an",
        "`assert` in the cell says what must be true of the output all the same. `make notebooks` writes this list.",
        "",
        "| notebook | cell | ends with | why not | assert |",
        "|---|---|---|---|---|",
    ]
    for one in kept:
        line = one.line.replace("|", "\\|")[:60]
        lines.append(f"| {one.notebook} | {one.count} | `{line}` | {one.reason} | {'yes' if one.asserts else ''} |")
    return "\n".join(lines) + "\n"


def _compared(cell: dict) -> bool:
    tags = cell["metadata"].get("tags", [])
    return "nbval-ignore-output" not in tags and "nbval-skip" not in tags and not _picture(cell)


def _picture(cell: dict) -> str:
    """Why a picture without words is not compared: nbval does not look at PNGs."""
    data = [output.get("data", {}) for output in cell["outputs"]]
    words = ["".join(one.get("text/plain", "")) for one in data]
    only = all("image/png" in one and re.match(r"<Figure size", text) for one, text in zip(data, words, strict=True))
    return "a picture; only its size would be" if only else ""


def _why(source: str, moved: dict[str, str]) -> str:
    """Why what a cell makes differs between machines; "" where nothing says so. moved: name -> why it does."""
    direct = [why for call, why in _MOVES.items() if re.search(call, source)]
    return next(iter([*direct, *(moved[name] for name in sorted(_names(source, ast.Load)) if name in moved)]), "")


def _names(source: str, context: type) -> set[str]:
    nodes = ast.walk(ast.parse(source))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, context)}


def main(arguments: list[str]) -> None:
    """Print or write the list."""
    text = table([output for path in sorted(NOTEBOOKS.glob("0*.ipynb")) for output in outputs(path)])
    if arguments != ["--write"]:
        print(text, end="")
        return
    LIST.write_text(text, encoding="utf-8")
    shutil.rmtree(STORED, ignore_errors=True)
    run = NOTEBOOKS.parent / "runs" / "quick"
    members = [path for name in _OF_A_MEMBER for path in run.glob(f"comparison/**/seed*/{name}")]
    for file in [*run.glob("*/predictions_*.npz"), *members]:
        kept = STORED / file.relative_to(run)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, kept)


if __name__ == "__main__":
    main(sys.argv[1:])
