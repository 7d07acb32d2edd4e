"""What is wrong with a data set, counted and named, in one pass over CSV, lists, boxes and images.

Each thing found has a level: it "stops" (cxrlib refuses it), it "changes" a result, or it is "harmless" (handled, and
said). The pixels are decoded only where a file looks torn, or, with `deep`, of every image.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlib.core.errors import InputError, some
from cxrlib.core.paths import written_whole
from cxrlib.data.doctor.checks import CHANGES, CHECKS, HARMLESS, STOPS
from cxrlib.data.doctor.images import check_images
from cxrlib.data.doctor.tables import check_boxes, check_csv, check_lists
from cxrlib.data.metadata import find_csv
from cxrlib.data.sources import newest_version, scan_images

_LEVELS = (STOPS, CHANGES, HARMLESS)


@dataclass(frozen=True)
class Report:
    """What `check_dataset` found.

    facts: plain values about the data set; names: check -> what it applies to, None where it was not looked at.
    """

    facts: dict
    names: dict[str, list[str] | None]

    @property
    def table(self) -> pd.DataFrame:
        """One row a check, the grave ones first: subject, level, count (missing: not looked at), meaning, to do."""
        rows = [
            {
                "check": check,
                "subject": subject,
                "level": level,
                "count": None if self.names[check] is None else len(self.names[check]),
                "examples": some(self.names[check] or [], 3),
                "meaning": meaning,
                "to do": advice,
            }
            for subject, checks in CHECKS.items()
            for check, (level, meaning, advice) in checks.items()
        ]
        table = pd.DataFrame(rows).astype({"count": "Int64"}).set_index("check")
        return table.sort_values("level", key=lambda levels: levels.map(_LEVELS.index), kind="stable")

    @property
    def found(self) -> pd.DataFrame:
        """The rows of `table` that found something."""
        return self.table[self.table["count"].fillna(0) > 0]

    @property
    def ok(self) -> bool:
        """Whether nothing was found that stops cxrlib or changes a result."""
        return bool((self.found["level"] == HARMLESS).all())

    def to_dict(self) -> dict:
        """Plain types for JSON, with every name."""
        table = self.table.drop(columns="examples").reset_index()
        checks = [
            row | {"count": None if row["count"] is pd.NA else int(row["count"]), "names": self.names[row["check"]]}
            for row in table.to_dict("records")
        ]
        return {**self.facts, "ok": self.ok, "checks": checks}

    def save(self, path: str | Path) -> Path:
        """Write the JSON of `to_dict`, whole or not at all. Returns the path."""
        with written_whole(path) as beside:
            beside.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return Path(path)

    def __str__(self) -> str:
        facts, looked_at = self.facts, sum(names is not None for names in self.names.values())
        lines = [
            f"data set  {facts['img_root']}",
            f"CSV       {facts['csv_path'] or 'none'}: {facts['rows']:,} rows, {facts['patients']:,} patients",
            f"images    {facts['images']:,} in {len(facts['folders'])} folder(s): {_counts(facts['kinds'])}; "
            f"{_counts(facts['sizes'])} pixels",
            f"looked at {looked_at} of {len(self.names)} things, and at "
            + ("every pixel" if facts["deep"] else "the headers of the images (deep decodes every pixel)"),
        ]
        for check, row in self.found.iterrows():
            level = row["level"] if row["level"] == HARMLESS else row["level"].upper()
            lines += ["", f"{level}  {check}: {row['count']:,} ({row['examples']})", f"    {row['meaning']}"]
            lines += [f"    -> {row['to do']}"] if row["level"] != HARMLESS else []
        return "\n".join([*lines, "", f"verdict   {self.verdict}"])

    @property
    def verdict(self) -> str:
        """One line: how many things stop cxrlib, and how many would change a result."""
        counts = self.found["level"].value_counts()
        words = {STOPS: "to mend before cxrlib can go on", CHANGES: "that would change a result"}
        grave = [f"{counts[level]} {what}" for level, what in words.items() if level in counts]
        return "; ".join(grave) or "nothing that would change a result"


def check_dataset(img_root: str | Path, csv_path: str | Path = "", deep: bool = False, progress: bool = True) -> Report:
    """Look at everything of a data set once, and count and name what is wrong, unusual or merely worth knowing.

    img_root: a folder in any layout of `sources`; csv_path: "" for the CSV in it. The official lists and the boxes are
    looked for in both places. deep: decode every image on all cores (about 10 ms each a core at 1024 pixels), else
    only 49 bytes of each are read. Nothing is written.
    Raises InputError only where `img_root` is no folder or `csv_path` no file.
    """
    root = Path(img_root)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; expected the root of the radiographs (img_root)")
    root = newest_version(root)
    names: dict[str, list[str] | None] = {check: None for checks in CHECKS.values() for check in checks}
    path = _csv(root, csv_path, names)
    entries = pd.DataFrame({"image": [], "labels": [], "patient": []}, dtype=str)
    folders = (root,) if path is None else (root, path.parent)
    if path is not None:
        found, entries = check_csv(path)
        _add(names, "csv", found)
        _add(names, "lists", check_lists(folders, entries))
        _add(names, "boxes", check_boxes(folders, entries))
    files: dict[str, list[Path]] = {}
    for entry in sorted(scan_images(root), key=lambda entry: entry.name):
        files.setdefault(entry.name, []).append(Path(entry.path))
    used = set(entries["image"]) if len(entries) else set(files)
    found, facts = check_images(files, used, deep, progress)
    found["no image"] = [] if files else [str(root)]
    found["without image"] = sorted(used - set(files))
    found["without row"] = sorted(set(files) - used)
    _add(names, "images", found)
    facts = {
        "img_root": str(root),
        "csv_path": str(path or ""),
        "deep": deep,
        "rows": len(entries),
        "patients": int(entries["patient"].nunique()),
        "images": len(files),
        "folders": dict(Counter(str(paths[0].parent.relative_to(root)) for paths in files.values())),
        **facts,
    }
    return Report(facts, names)


def _csv(root: Path, csv_path: str | Path, names: dict) -> Path | None:
    names["no CSV"] = []
    if str(csv_path):
        if not Path(csv_path).is_file():
            raise InputError(f"{csv_path} is not a file; expected a CSV of the data set (csv_path)")
        return Path(csv_path)
    try:
        return find_csv(root)
    except InputError as error:
        names["no CSV"] = [str(error)]
        return None


def _add(names: dict, subject: str, found: dict[str, list[str]] | None) -> None:
    """Take over what one subject's checks found; what was looked for and not found becomes an empty list."""
    if found is not None:
        names |= {check: found.get(check) or names[check] or [] for check in CHECKS[subject]}


def _counts(counted: dict[str, int], most: int = 3) -> str:
    """Such as "40 grey, 9 RGBA"."""
    rest = sum(list(counted.values())[most:])
    shown = [f"{count:,} {what}" for what, count in list(counted.items())[:most]]
    return ", ".join([*shown, *([f"{rest:,} other"] if rest else [])]) or "none can be read"
