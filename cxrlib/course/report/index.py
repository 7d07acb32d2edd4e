"""runs/index.html: every run of a folder with what it measured, newest first."""

import json
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from cxrlib.course.parameters import COURSE
from cxrlib.course.report.pages import write_page


def write_index(folder: Path) -> Path:
    """Write index.html over all runs in `folder`; a run that cannot be read is listed as such."""
    runs = [_row(path.parent) for path in folder.glob("*/run.json")]
    return write_page(
        folder / "index.html",
        "index.html",
        runs=sorted(runs, key=lambda row: (row["started"], row["name"]), reverse=True),
    )


def _row(path: Path) -> dict:
    row = dict.fromkeys(("started", "profile", "arch", "split", "data"), "")
    row |= {"name": path.name, "links": _links(path), "phantoms": None, "seconds": 0, "macro": None}
    try:
        run = json.loads((path / "run.json").read_text(encoding="utf-8"))
        parameters, data, stages = (run.get(name) or {} for name in ("parameters", "data", "stages"))
        row |= {
            "started": str(run.get("started", "")).replace("T", " "),
            "profile": str(run.get("profile", "")),
            "arch": str(parameters.get("arch") or stages.get("03_train_efficientnet", {}).get("arch", "")),
            "split": str(parameters.get("split") or stages.get("02_preprocess", {}).get("split", "")),
            "data": stages.get("02_preprocess", {}).get("data", ""),
            "phantoms": data.get("phantoms"),
            "seconds": sum(stage.get("seconds", 0) for stage in stages.values()),
            "state": _state(stages),
        }
        if (path / "metrics.csv").is_file():
            macro = pd.read_csv(path / "metrics.csv", index_col="finding").loc["macro"]
            row["macro"] = {name: float(macro[name]) for name in _METRICS} | {"n": int(macro["n"])}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        row["state"] = f"cannot be read ({type(error).__name__})"
    return row


_METRICS = ("auroc", "auroc_low", "auroc_high", "f1", "f1_low", "f1_high")


def _state(stages: dict) -> str:
    failed = [name for name in COURSE if "error" in stages.get(name, {})]
    done = [name for name in COURSE if "seconds" in stages.get(name, {})]
    if failed:
        return f"failed in {failed[0]}"
    if len(done) == len(COURSE):
        return "finished"
    return f"{len(done)} of {len(COURSE)} notebooks" if done else "run by hand"


def _links(path: Path) -> list[dict]:
    """What of a run can be opened: report, notebooks as executed, metrics, parameters."""
    there = [path / "report.html", path / "report.pdf", *sorted((path / "notebooks").glob("*.ipynb"))]
    names = {"report.html": "report", "report.pdf": "PDF"}
    there += [path / "metrics.csv", path / "run.json"]
    return [
        {
            "text": names.get(file.name, file.stem[:2] if file.suffix == ".ipynb" else file.name),
            "title": file.name,
            "href": quote(file.relative_to(path.parent).as_posix()),
        }
        for file in there
        if file.is_file()
    ]
