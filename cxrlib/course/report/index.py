"""runs/index.html: all runs of a folder with their results, newest first."""

from pathlib import Path
from urllib.parse import quote

from cxrlib.core.paths import one_process
from cxrlib.course.parameters import COURSE
from cxrlib.course.report.evidence import Evidence
from cxrlib.course.report.templates import write_page

_METRICS = ("n", "auroc", "auroc_low", "auroc_high", "f1", "f1_low", "f1_high")


def write_index(folder: Path) -> Path:
    """Write index.html for all runs in `folder`; a run that cannot be read is listed as such."""
    with one_process(folder / ".index.lock"):  # of two runs that end together, the later page shows both
        runs = [_row(Evidence(path.parent)) for path in folder.glob("*/run.json")]
        newest_first = sorted(runs, key=lambda row: (row["started"], row["name"]), reverse=True)
        return write_page(folder / "index.html", "index.html", runs=newest_first)


def _row(run: Evidence) -> dict:
    macro = {name: run.value("metrics.csv", "macro", name) for name in _METRICS}
    seconds = [run.value("run.json", "stages", name, "seconds") for name in COURSE]
    measured = all(isinstance(value, int | float) for value in macro.values())
    return {
        "name": run.path.name,
        "links": _links(run.path),
        "started": str(run.value("run.json", "started") or ""),
        "profile": run.value("run.json", "profile") or "",
        "arch": run.value("run.json", "stages", "03_train_efficientnet", "arch") or "",
        "split": run.value("run.json", "stages", "02_preprocess", "split") or "",
        "data": run.value("run.json", "stages", "02_preprocess", "data") or "",
        "phantoms": run.value("run.json", "data", "phantoms"),
        "seconds": sum(value for value in seconds if isinstance(value, int | float)),
        "state": _state(run, measured),
        "macro": macro if measured else None,
    }


def _state(run: Evidence, measured: bool) -> str:
    for file, content in {"run.json": run.json("run.json"), "metrics.csv": measured}.items():
        if not content and (run.path / file).is_file():
            return f"cannot be read: {file}"
    failed = [name for name in COURSE if run.value("run.json", "stages", name, "error") is not None]
    done = [name for name in COURSE if run.value("run.json", "stages", name, "seconds") is not None]
    if failed:
        return f"failed in {failed[0]}"
    if len(done) == len(COURSE):
        return "finished"
    return f"{len(done)} of {len(COURSE)} notebooks" if done else "run by hand"


def _links(path: Path) -> list[dict]:
    """The files of a run that can be opened: report, notebooks as executed, metrics, parameters."""
    files = {"report": "report.html", "PDF": "report.pdf"}
    files |= {notebook.stem[:2]: f"notebooks/{notebook.name}" for notebook in sorted(path.glob("notebooks/*.ipynb"))}
    files |= {"metrics.csv": "metrics.csv", "run.json": "run.json"}
    there = {text: path / file for text, file in files.items() if (path / file).is_file()}
    return [
        {"text": text, "title": file.name, "href": quote(file.relative_to(path.parent).as_posix())}
        for text, file in there.items()
    ]
