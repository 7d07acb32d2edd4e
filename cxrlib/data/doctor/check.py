"""What is wrong with a data set, counted and named, in one pass over CSV, lists, boxes and images.

Each check has a level: it "stops" cxrlib, "changes" a result, or is "harmless" (handled and reported). Pixels are
decoded only where a file looks truncated or, with `deep`, in every image.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrlib.core.errors import InputError, printable, some
from cxrlib.data.doctor.images import check_images
from cxrlib.data.doctor.tables import check_boxes, check_csv, check_lists
from cxrlib.data.metadata import find_csv
from cxrlib.data.sources import describe_layout, image_root, scan_images

STOPS, CHANGES, HARMLESS = "stops", "changes", "harmless"  # stops cxrlib; changes a result; is handled and reported
CHECKS = pd.read_csv(Path(__file__).with_name("checks.csv"), index_col="check")  # in the order of the report


@dataclass(frozen=True)
class Report:
    """The result of `check_dataset`.

    facts: plain values about the data set; names: check -> what it applies to, None where it was not done.
    """

    facts: dict
    names: dict[str, list[str] | None]

    @property
    def table(self) -> pd.DataFrame:
        """One row per check, most serious first: subject, level, count (missing: not done), meaning, what to do."""
        table, found = CHECKS.copy(), [self.names[check] for check in CHECKS.index]
        table.insert(2, "count", pd.array([None if names is None else len(names) for names in found], "Int64"))
        table.insert(3, "examples", [some(names or [], 3) for names in found])
        levels = [STOPS, CHANGES, HARMLESS]
        return table.sort_values("level", key=lambda column: column.map(levels.index), kind="stable")

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
        table = self.table.drop(columns="examples")
        each = [self.names[check] for check in table.index]
        table["names"] = [names and list(map(printable, names)) for names in each]
        return {**self.facts, "ok": self.ok, "checks": json.loads(table.reset_index().to_json(orient="records"))}

    def __str__(self) -> str:
        facts, done = self.facts, sum(names is not None for names in self.names.values())
        kinds, sizes = (
            some([f"{count:,} {what}" for what, count in facts[name].items()], 3) or "none can be read"
            for name in ("kinds", "sizes")
        )
        looked_at = "every pixel" if facts["deep"] else "the headers of the images (deep decodes every pixel)"
        lines = [
            f"data set  {facts['img_root']}",
            f"CSV       {facts['csv_path'] or 'none'}: {facts['rows']:,} rows, {facts['patients']:,} patients",
            f"images    {facts['images']:,} in {len(facts['folders'])} folder(s): {kinds}; {sizes} pixels",
            f"checks    {done} of {len(self.names)}, of {looked_at}",
        ]
        for check, row in self.found.iterrows():
            level = row["level"] if row["level"] == HARMLESS else row["level"].upper()
            lines += ["", f"{level}  {check}: {row['count']:,} ({row['examples']})", f"    {row['meaning']}"]
            lines += [f"    -> {row['to do']}"] if row["level"] != HARMLESS else []
        return "\n".join([*lines, "", f"verdict   {self.verdict}"])

    @property
    def verdict(self) -> str:
        """One line: how many findings stop cxrlib, and how many would change a result."""
        counts = self.found["level"].value_counts()
        words = {STOPS: "to fix before cxrlib can go on", CHANGES: "that would change a result"}
        said = [f"{counts[level]} {what}" for level, what in words.items() if level in counts]
        return "; ".join(said) or "nothing that would change a result"


def check_dataset(img_root: str | Path, csv_path: str | Path = "", deep: bool = False, progress: bool = True) -> Report:
    """Count and name what is wrong with a data set or unusual in it. Writes nothing.

    img_root: a folder in any layout of `sources`. csv_path: "" for the CSV in `img_root`; the official lists and the
    boxes are searched in both places. deep: decode every image on all cores (about 10 ms per image and core at 1024
    pixels), instead of reading the header. Raises InputError where `img_root` is not a folder that can be read or
    `csv_path` not a file.
    """
    root = image_root(img_root)
    if str(csv_path) and not Path(csv_path).is_file():
        raise InputError(f"{csv_path} is not a file; expected a CSV of the data set (csv_path)")
    found = {}  # subject -> check -> names; None: there is nothing to check
    entries = pd.DataFrame(columns=["image", "labels", "patient"], dtype=str)
    try:
        path, reason = Path(csv_path) if str(csv_path) else find_csv(root), ""
    except InputError as error:
        path, reason = None, str(error)
    if path:
        found["csv"], entries = check_csv(path)
        found["lists"] = check_lists((root, path.parent), entries)
        found["boxes"] = check_boxes((root, path.parent), entries)
    files = {}
    for entry in sorted(scan_images(root), key=lambda entry: entry.name):
        files.setdefault(entry.name, []).append(Path(entry.path))
    used = set(entries["image"]) if len(entries) else set(files)
    found["images"], image_facts = check_images(files, used, deep, progress)
    found["images"] |= {
        "no image": [] if files else [str(root)],
        "without image": sorted(used - set(files)),
        "without row": sorted(set(files) - used),
    }
    names = {
        check: None if found.get(subject) is None else found[subject].get(check, [])
        for check, subject in CHECKS["subject"].items()
    }
    facts = {
        "img_root": str(root),
        "csv_path": str(path or ""),
        "deep": deep,
        "rows": len(entries),
        "patients": int(entries["patient"].nunique()),
        "images": len(files),
        "folders": describe_layout({name: paths[0] for name, paths in files.items()}, root),
    }
    return Report(facts | image_facts, names | ({"no CSV": [reason]} if reason else {}))
