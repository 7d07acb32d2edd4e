"""The notebooks of the course: their parameters (cells, profiles, `-p`), and whether one must run again."""

import ast
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

import cxrlib
from cxrlib.core.errors import InputError, nearest
from cxrlib.core.paths import NOTEBOOKS, PROFILES, RESULTS, expanded, read_json, write_json
from cxrlib.course.config import CourseConfig
from cxrlib.course.opening import BESIDE, Data
from cxrlib.course.runs import RunFolder, versions
from cxrlib.data.sources import content_digest
from cxrlib.evaluation.thresholds import grid_values, parse_objective
from cxrlib.models.names import SUFFIXES
from cxrlib.training.comparison import candidates, parse_budget
from cxrlib.training.config import TrainConfig

COURSE = ("01_eda", "02_preprocess", "03_train_efficientnet", "04_compare_architectures", "05_thresholds", "06_gradcam")
_PACKAGE = Path(cxrlib.__file__).parent
_DOCTOR = "the doctor has other tables to look at"  # which changes what a notebook prints, but nothing that others read
_CHANGED = {"data": "other {}", "notebook": "its {} changed", "cxrlib": "cxrlib changed ({})", "doctor": _DOCTOR,
            "results": "{} changed since"}  # fmt: skip


def code_cells(name: str) -> list[tuple[str, list[str]]]:
    """(source, tags) of each code cell of a notebook."""
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return [("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in code]


def notebook_parameters(name: str) -> dict:
    """Names and defaults of a notebook's `parameters` cell."""
    [source] = [source for source, tags in code_cells(name) if "parameters" in tags]
    return {line.target.id: ast.literal_eval(line.value) for line in ast.parse(source).body}


def defaults() -> dict:
    """The parameters of all notebooks in one, with their defaults; a name means the same in each."""
    return {name: value for notebook in COURSE for name, value in notebook_parameters(notebook).items()}


def read_profile(profile: str | Path) -> dict:
    """The parameters of a profile: a name from notebooks/profiles, or the path of a YAML file."""
    ours = {path.stem: path for path in sorted(PROFILES.glob("*.yaml"))}
    path = ours.get(str(profile), Path(expanded(profile)))
    if not path.is_file():
        raise InputError(f"no profile {str(profile)!r}; expected {', '.join(ours)} or a YAML file")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("it holds an alias, *name, with which a line may unfold to any size")
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is not a YAML file ({reason}); expected name: value") from None
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path} holds no parameters; expected lines of name: value")
    return values or {}


def check_parameters(values: dict) -> dict:
    """Parameters in their declared types; InputError for an unknown name, and for values that a notebook refuses."""
    known = defaults()
    values = _typed(values, known)
    every = known | values
    try:
        compared(every)
        parse_budget(every["compare_budget"])
    except InputError as error:
        raise InputError(f"in the comparison (archs, compare_...): {error}") from None
    grid_values(tuple(every[f"threshold_{end}"] for end in ("min", "max", "step")))
    parse_objective(every["objective"])
    return values


def compared(values: dict) -> dict[str, TrainConfig]:
    """What the comparison trains, as `candidates` gives it. Raises InputError for what does not fit an architecture."""
    own = {name: values[f"compare_{name}"] for name in ("weights", "image_size", "train_subset", "lr", "batch_size")}
    return candidates(values["archs"], TrainConfig(**own))


def each_run(pairs: Iterable[tuple[str, str]]) -> dict[str, dict]:
    """What to run for repeated parameters: {suffix of the run's name: {parameter: value}}, every combination once.

    [("lr", "1e-3"), ("lr", "3e-4")]: "-lr=0.001", "-lr=0.0003". InputError for two runs in one folder, run_dir twice.
    """
    known, values = defaults(), {}
    for name, value in pairs:
        values.setdefault(name, []).append(_typed({name: value}, known)[name])
    varied = [name for name in values if len(values[name]) > 1]
    every = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    runs = {"".join(f"-{name}={_in_a_name(each[name])}" for name in varied): each for each in every}
    if len(runs) < len(every) or "run_dir" in varied:
        raise InputError(f"{' or '.join(varied)} is repeated with values that do not name a folder of each run; "
                         "expected different ones, and one run_dir, to which they are added")  # fmt: skip
    return runs


def _in_a_name(value) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^\w.,+-]+", "_", text).strip("_") or "none"


def _typed(values: dict, known: dict) -> dict:
    if unknown := [name for name in values if name not in known]:
        named = f"{', '.join(sorted(known))}{nearest(unknown[0], known)}"
        raise InputError(f"unknown parameter {unknown[0]!r}; expected one of {named}")
    return CourseConfig(**known | values).model_dump(include=set(values))


def basis(name: str, every: dict, data: Data) -> dict[str, dict]:
    """What the result of a notebook depends on; `every` holds the parameters of all notebooks, defaults included."""
    code, parameters = _code(name), {key: every[key] for key in notebook_parameters(name)}
    beside = {kind: digest for kind, digest in data.beside.items() if BESIDE[kind][1] in code}
    tables = sorted(path for path in [*(NOTEBOOKS / "tables").iterdir(), *RESULTS.rglob("*.*")] if path.name in code)
    starts = [parameters.get("weights", "")]
    starts += [config.weights for config in compared(every).values()] if "archs" in parameters else []
    beside |= {path: content_digest([Path(path)]) for path in starts if path.endswith(SUFFIXES)}
    return {
        "parameters": {key: value for key, value in parameters.items() if key != "run_dir"},
        "data": {"data": data.fingerprint} | beside,
        "notebook": {"code": hashlib.sha256(code.encode()).hexdigest(), "tables": content_digest(tables)},
        "cxrlib": {module: content_digest([_file(module)]) for module in sorted(modules(code))},
        "versions": versions(),
        "doctor": data.beside if "check_dataset" in code else {},
    }


def reads_from(name: str) -> list[str]:
    """The earlier notebooks whose results this one reads: those it names in quotes, as `run.need` has it do."""
    code = _code(name)
    return [earlier for earlier in COURSE[: COURSE.index(name)] if re.search(rf"""["']{earlier}["']""", code)]


@functools.cache
def modules(code: str) -> frozenset[str]:
    """The modules of cxrlib, such as "data.cache", that some code imports by name, and those that these import."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    inside = {name.removeprefix("cxrlib.") for name in names if name.startswith("cxrlib.")}
    files = {module: _file(module) for module in inside if _file(module).is_file()}
    return frozenset(files).union(*(modules(file.read_text(encoding="utf-8")) for file in files.values()))


def reasons_to_rerun(run: RunFolder, every: dict[str, dict]) -> dict[str, str]:
    """{notebook: why it must run, "" where it has not finished}; the others of `every`, {notebook: basis}, need not."""
    again = {}
    for name in COURSE:
        why = _difference(run, name, every[name] | _results(run, name, _files(run, name)))
        remade = [earlier for earlier in reads_from(name) if again.get(earlier, _DOCTOR) != _DOCTOR]
        if why is not None or remade:
            again[name] = f"reads what {remade[0]} makes" if why is None else why
    return again


def remember(run: RunFolder, name: str, basis: dict, files: list[str]) -> None:
    """Write that a notebook has finished, with what, and which files of the run folder it wrote."""
    write_json(_record(run, name), basis | _results(run, name, files) | {"files": files})


def forget(run: RunFolder, name: str) -> None:
    """Take back that a notebook has finished, with its tables and figures; a comparison that was stopped can go on."""
    tables = {file for file in _files(run, name) if "/" not in file}
    for path in (*(run.path / file for file in tables), *run.figures.glob(f"{name[:2]}_*"), _record(run, name)):
        path.unlink(missing_ok=True)


def stamps(run: RunFolder) -> dict[str, int]:
    """When each file of the run folder was written, but for results of earlier trainings (previous-N) and run.json."""
    paths = [path for path in run.path.rglob("[!.]*") if path.is_file() and run.notebooks not in path.parents]
    times = {path.relative_to(run.path).as_posix(): path.stat().st_mtime_ns for path in paths}
    return {name: time for name, time in times.items() if name != "run.json" and "/previous-" not in name}


def _difference(run: RunFolder, name: str, basis: dict) -> str | None:
    """What differs from the basis of the last time; "" where there is no record of it, None where nothing does."""
    record = read_json(_record(run, name))
    if any(not isinstance(record.get(key), dict) for key in basis):
        return ""
    for key, now in basis.items():
        before = record[key]
        if changed := [each for each in sorted({*now, *before}) if now.get(each) != before.get(each)]:
            values = ", ".join(f"{each} {before.get(each)!r} -> {now.get(each)!r}" for each in changed)
            return _CHANGED[key].format(", ".join(changed)) if key in _CHANGED else values
    return next((f"{file} is gone" for file in _files(run, name) if not (run.path / file).is_file()), None)


def _results(run: RunFolder, name: str, own: list[str]) -> dict[str, dict[str, str]]:
    """The rest of the basis: what the notebooks that this one reads wrote, but for the files that are its `own`."""
    files = {file for earlier in reads_from(name) for file in _files(run, earlier)} - set(own)
    there = [file for file in sorted(files) if (run.path / file).is_file() and not file.startswith("figures/")]
    return {"results": {file: content_digest([run.path / file]) for file in there}}


def _record(run: RunFolder, name: str) -> Path:
    return run.notebooks / f"{name}.json"


def _files(run: RunFolder, name: str) -> list[str]:
    return read_json(_record(run, name)).get("files", [])


def _code(name: str) -> str:
    return "\n".join(source for source, _ in code_cells(name))


def _file(module: str) -> Path:
    return _PACKAGE / f"{module.replace('.', '/')}.py"
