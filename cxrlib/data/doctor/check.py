"""What is wrong with a data set, counted and named: it "stops" cxrlib, "changes" a result, or is "harmless"."""

import csv
import hashlib
import io
import json
from collections import Counter, defaultdict, namedtuple
from pathlib import Path

import pandas as pd
from joblib import Parallel, delayed
from PIL import Image

from cxrlib.core.errors import InputError, printable, some
from cxrlib.core.progress import bar
from cxrlib.data import images, metadata
from cxrlib.data.findings import parse
from cxrlib.data.sources import describe_layout, find_beside, image_root, same_file, scan_images

STOPS, CHANGES, HARMLESS = "stops", "changes", "harmless"
CHECKS = pd.read_csv(Path(__file__).with_name("checks.csv"), index_col="check")  # most serious first
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_KINDS = {"1": "1-bit grey", "L": "grey", "LA": "grey with alpha", "P": "palette", "I": "16-bit grey"}

Found = dict[str, list[str]]  # check -> names or rows
Header = namedtuple("Header", "size kind ends mark")


class Report:
    """The result of `check_dataset`: facts (plain values), names (check -> what it applies to, None where not done).

    table: one row per check, most serious first: subject, level, count (missing: not done), examples, meaning, to do;
    found: those that found something. ok: whether none stops cxrlib or changes a result; verdict: that in one line.
    """

    def __init__(self, facts: dict, names: dict[str, list[str] | None]):
        self.facts, self.names = facts, names
        self.table, lists = CHECKS.copy(), [names[check] for check in CHECKS.index]
        self.table.insert(2, "count", pd.array([None if each is None else len(each) for each in lists], "Int64"))
        self.table.insert(3, "examples", [some(each or [], 3) for each in lists])
        self.found = self.table[self.table["count"].fillna(0) > 0]
        self.ok = bool((self.found["level"] == HARMLESS).all())
        counts = self.found["level"].value_counts()
        words = {STOPS: "to fix before cxrlib can go on", CHANGES: "that would change a result"}
        said = [f"{counts[level]} {what}" for level, what in words.items() if level in counts]
        self.verdict = "; ".join(said) or "nothing that would change a result"

    def to_dict(self) -> dict:
        """Plain types for JSON, with every name."""
        table = self.table.drop(columns="examples")
        table["names"] = [names and list(map(printable, names)) for names in map(self.names.get, table.index)]
        return {**self.facts, "ok": self.ok, "checks": json.loads(table.reset_index().to_json(orient="records"))}

    def __str__(self) -> str:
        facts, done = self.facts, sum(names is not None for names in self.names.values())
        seen = [[f"{count:,} {what}" for what, count in facts[name].items()] for name in ("kinds", "sizes")]
        kinds, sizes = (some(each, 3) or "none can be read" for each in seen)
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


def check_dataset(img_root: str | Path, csv_path: str | Path = "", deep: bool = False, progress: bool = True) -> Report:
    """Count and name what is wrong with a data set or unusual in it. Writes nothing.

    img_root: a folder in any layout of `sources`. csv_path: "" for the CSV in `img_root`; the official lists and the
    boxes are searched in both places. deep: decode every image on all cores, not only those that look truncated.
    Raises InputError where `img_root` is not a folder that can be read or `csv_path` not a file.
    """
    root, found = image_root(img_root), {}  # found: subject -> check -> names; None: there is nothing to check
    if str(csv_path) and not Path(csv_path).is_file():
        raise InputError(f"{csv_path} is not a file; expected a CSV of the data set (csv_path)")
    entries = pd.DataFrame(columns=[*metadata.NEEDED], dtype=str)
    try:
        path, reason = Path(csv_path) if str(csv_path) else metadata.find_csv(root), ""
        found["csv"], entries = _check_csv(path)
        found["lists"] = _check_lists((root, path.parent), entries)
        found["boxes"] = _check_boxes((root, path.parent), entries)
    except InputError as error:
        path, reason = None, str(error)
    files = defaultdict(list)
    for entry in sorted(scan_images(root), key=lambda entry: entry.name):
        files[entry.name].append(Path(entry.path))
    used = set(entries["image"]) if len(entries) else set(files)
    found["images"], image_facts = _check_images(files, used, deep, progress)
    found["images"] |= {"without image": sorted(used - set(files)), "without row": sorted(set(files) - used)}
    found["images"]["no image"] = [] if files else [str(root)]
    subjects = CHECKS["subject"].items()
    names = {check: found[subject].get(check, []) if found.get(subject) else None for check, subject in subjects}
    facts = {"img_root": str(root), "csv_path": str(path or ""), "deep": deep, "rows": len(entries)}
    facts |= {"patients": int(entries["patient"].nunique()), "images": len(files)}
    facts["folders"] = describe_layout({name: paths[0] for name, paths in files.items()}, root)
    return Report(facts | image_facts, names | ({"no CSV": [reason]} if reason else {}))


def _check_csv(path: Path) -> tuple[Found, pd.DataFrame]:
    """What is wrong, and the readable columns of `metadata.COLUMNS` as text ("" where a value is missing)."""
    found: Found = defaultdict(list)
    table = _read(path, found)
    entries = metadata.known_columns(table, metadata.COLUMNS)
    found["column missing"] = [metadata.COLUMNS[name][0] for name in metadata.NEEDED if name not in entries]
    found["no row"] = [path.name] * table.empty
    entries = entries.reindex(columns=[*dict.fromkeys([*metadata.NEEDED, *entries])], fill_value="")
    if table.empty or found["column missing"]:
        return found, entries
    image, patient = entries["image"], entries["patient"]
    found["unsafe name"] = [repr(name) for name in image[image.str.contains(metadata.UNSAFE)]]
    found["image named twice"] = list(image[image.duplicated()].unique())
    found["no patient"] = list(image[patient == ""])
    usable = entries["labels"].map({label: parse(label) is not None for label in entries["labels"].unique()})
    found["unknown label"] = list((image + " (" + entries["labels"] + ")")[~usable])
    if "age" in entries:
        wrong = ~(metadata.age_in_years(entries["age"]) <= 110)  # the 2017 release has typing errors up to 414
        found["age out of range"] = list((image + " (" + entries["age"].replace("", "none") + ")")[wrong])
    number = metadata.nih_patient(image)
    other = number.notna() & patient.str.fullmatch(r"\d+") & (number.str.lstrip("0") != patient.str.lstrip("0"))
    found["patient unlike the name"] = list((image + " (" + patient + ")")[other])
    if pd.to_numeric(number).between(1, 30_805).any():  # NIH's patients
        known = entries[usable].drop_duplicates("image")
        both = known.merge(metadata.reference_entries(), on="image", suffixes=("", "_v2020"))
        both = both[both["labels"] != both["labels_v2020"]]  # most are the same text and need no parsing
        parsed = zip(both["image"], both["labels"].map(parse), both["labels_v2020"].map(parse), strict=True)
        found["labels of another release"] = [name for name, ours, theirs in parsed if set(ours) != set(theirs)]
    return found, entries


def _read(path: Path, found: Found) -> pd.DataFrame:
    """All values as text; notes what keeps the file from being read as a CSV, and rows of another length."""
    try:
        text = metadata.read_text(path, errors="replace")
        found["not UTF-8"] = [path.name] * ("\N{REPLACEMENT CHARACTER}" in text)
        first = text.partition("\n")[0]
        found["semicolons"] = [path.name] * (first.count(";") > first.count(","))
        lines = io.StringIO(text.replace("\0", ""), newline="")
        header, *rows = csv.reader(lines, delimiter=";" if found["semicolons"] else ",")
    except (csv.Error, ValueError):  # ValueError: not readable, or not even a header
        found["not a text file"] = [path.name]
        return pd.DataFrame()
    rows = [row for row in rows if row]
    named = max((place + 1 for place, name in enumerate(header) if name.strip()), default=0)
    found["row too long"] = [f"row {number}" for number, row in enumerate(rows) if len(row) > len(header)]
    found["row too short"] = [f"row {number}" for number, row in enumerate(rows) if len(row) < named]
    missing = [""] * len(header)
    table = pd.DataFrame([[*row, *missing][: len(header)] for row in rows], columns=header, dtype=str)
    return table.loc[:, ~table.columns.duplicated()]


def _check_lists(folders: tuple[Path, ...], entries: pd.DataFrame) -> Found | None:
    """None where neither train_val_list.txt nor test_list.txt is in one of the folders."""
    names, lists = ("train_val_list.txt", "test_list.txt"), []
    paths = ({name: find_beside(name, folder) for name in names} for folder in folders)
    for name, path in next((each for each in paths if any(each.values())), {}).items():
        if path is None:
            return {"list missing": [name]}
        try:
            lists.append(set(metadata.read_lines(path)))
        except InputError:
            return {"list unreadable": [name]}
    if not lists:
        return None
    image, patient = entries["image"], entries["patient"].str.lstrip("0")
    in_train_val, in_test = (image.isin(listed) for listed in lists)
    return {
        "in both lists": sorted(set.intersection(*lists)),
        "in neither list": list(image[~in_train_val & ~in_test]),
        "patient on both sides": sorted((set(patient[in_train_val]) & set(patient[in_test])) - {""}),
    }


def _check_boxes(folders: tuple[Path, ...], entries: pd.DataFrame) -> Found | None:
    """None where BBox_List_2017.csv is in none of the folders."""
    path, found = find_beside(metadata.BOXES, *folders), defaultdict(list)
    if path is None:
        return None
    boxes = metadata.known_columns(_read(path, found), metadata.BOX_COLUMNS)
    missing = len(boxes.columns) < len(metadata.BOX_COLUMNS)
    if missing or any(found[check] for check in ("row too long", "semicolons", "not UTF-8")):
        return {"boxes unreadable": [path.name]}
    what = pd.Series([f"row {number}: {name}" for number, name in enumerate(boxes["image"])], dtype=str)
    known = boxes["finding"].map(lambda name: "|" not in name and parse(name) is not None)
    boxes, bad = metadata.parse_numbers(boxes)
    corner, size = boxes[["x", "y"]].to_numpy(), boxes[["w", "h"]].to_numpy()
    outside = ((corner < 0) | (corner + size > metadata.BOX_FRAME)).any(axis=1)
    return {
        "box of an unknown finding": list((what + " (" + boxes["finding"] + ")")[~known.astype(bool)]),
        "box without place or size": list(what[bad]),
        "box outside the image": list(what[outside & ~bad]),
        "box on an unknown image": list(what[~boxes["image"].isin(entries["image"])]),
        "box twice": list(what[boxes.duplicated()]),
    }


def read_header(path: str | Path) -> Header | None:
    """The header of an image, without its pixels; None for another file, a damaged header, or no permission to read.

    size, kind: such as "1024 x 1024", "palette, interlaced", "JPEG L", "DICOM". ends: whether the file ends as its
    format does; of DICOM never, whose header only its pixels confirm. mark: the same for identical files.
    """
    try:
        with open(path, "rb") as file:
            if images.is_dicom(file.read(132)):
                found = images.read_header(file)
                size, kind, last = f"{found['Columns']} x {found['Rows']}", "DICOM", None
            else:
                with Image.open(file, formats=("PNG", "JPEG")) as image:
                    size, mode = f"{image.width} x {image.height}", image.mode.partition(";")[0]
                    kind = _KINDS.get(mode, mode) + ", interlaced" * bool(image.info.get("interlace"))
                    kind, last = f"JPEG {mode}" if image.format == "JPEG" else kind, _ENDS[image.format]
            length = file.seek(0, io.SEEK_END)
            file.seek(max(0, length - 16))
            end = file.read()
    except Exception:  # Pillow raises many types for a damaged file
        return None
    return Header(size, kind, bool(last) and end.endswith(last), (length, size, kind, end))


def _check_images(files: dict[str, list[Path]], used: set[str], deep: bool, progress: bool) -> tuple[Found, dict]:
    """What is wrong, and facts. files: the paths of each name. used: the names in the CSV."""
    found, headers, first = defaultdict(list), {}, {}  # first: the first name of each mark
    parallel = Parallel(n_jobs=-1, prefer="threads", batch_size=16, return_as="generator")
    looks = parallel(delayed(_look)(paths[0], name in used, deep) for name, paths in files.items())
    looks = bar(looks, progress, total=len(files), desc="decode" if deep else "headers", unit=" images")
    for (name, paths), (header, mark, wrong) in zip(files.items(), looks, strict=True):
        if len(paths) > 1:
            same = all(same_file(paths[0], path) for path in paths[1:])
            found["same name twice" if same else "two images of one name"].append(name)
        for check, what in wrong.items():
            found[check].append(name + what)
        if mark and first.setdefault(mark, name) != name:
            found["same picture twice"].append(f"{name} = {first[mark]}")
        if header:
            headers[name] = header
    known = {name: header for name, header in headers.items() if name in used}
    usual = Counter(header.size for header in known.values()).most_common(1)
    found["not 8-bit grey"] = [f"{name} ({header.kind})" for name, header in known.items() if header.kind != "grey"]
    found["another size"] = [f"{name} ({header.size})" for name, header in known.items() if header.size != usual[0][0]]
    sizes, kinds = (Counter(getattr(header, what) for header in headers.values()) for what in ("size", "kind"))
    return found, {"sizes": dict(sizes.most_common()), "kinds": dict(kinds.most_common())}


def _look(path: Path, is_used: bool, deep: bool) -> tuple[Header | None, object, dict[str, str]]:
    """The header, a mark that equal pictures share (None: not compared), and {check: what} of what is wrong."""
    header = read_header(path)
    mark = header.mark if header and is_used and not deep else None
    # what looks truncated is decoded: without its end, a file may still have every pixel
    if not is_used or not (deep or header is None or not header.ends):
        return header, mark, {}
    try:
        radiograph = images.read_radiograph(path)
    except InputError as error:
        return header, mark, {"cannot be decoded": "" if isinstance(error, images.BadImage) else " (not readable)"}
    grey, warnings = radiograph.grey, radiograph.warnings
    wrong = {"read with a warning": f" ({'; '.join(warnings)})"} if warnings else {}
    if len(set(grey.getextrema())) == 1:
        wrong["one single grey"] = ""
    else:
        mark = hashlib.sha256(grey.tobytes() + str(grey.size).encode()).digest()
    return header, mark, wrong
