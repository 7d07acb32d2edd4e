"""Whether a notebook must run again: what its result depends on is kept, when it ends, beside its executed copy."""

import ast
import functools
import hashlib
import re
from pathlib import Path

import cxrlib
from cxrlib.core.paths import NOTEBOOKS, RESULTS, write_json
from cxrlib.course.opening import BESIDE, Data
from cxrlib.course.parameters import COURSE, code_cells
from cxrlib.course.runs import RunFolder, read_json, versions
from cxrlib.data.sources import content_digest
from cxrlib.models.names import SUFFIXES

_PACKAGE = Path(cxrlib.__file__).parent
_DOCTOR = "the doctor has other tables to look at"  # which changes what a notebook prints, but nothing that others read
_CHANGED = {
    "data": "other {}",
    "notebook": "its {} changed",
    "cxrlib": "cxrlib changed ({})",
    "doctor": _DOCTOR,
    "results": "{} changed since",
}


def basis(name: str, parameters: dict, data: Data) -> dict[str, dict]:
    """What the result of a notebook depends on; `parameters` holds all of its own, defaults included."""
    code = _code(name)
    beside = {kind: digest for kind, digest in data.beside.items() if BESIDE[kind][1] in code}
    tables = sorted(path for path in [*(NOTEBOOKS / "tables").iterdir(), *RESULTS.rglob("*.*")] if path.name in code)
    starts = [parameters.get("weights", ""), parameters.get("compare_weights", "")]
    starts += [arch.partition(":")[2] for arch in parameters.get("archs", ())]
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


def modules(code: str) -> set[str]:
    """The modules of cxrlib, such as "data.cache", that some code imports, and those that these import, and so on."""
    found, new = set(), set(_imported(code))
    while new:
        found |= new
        new = {name for module in new for name in _imported(_file(module).read_text(encoding="utf-8"))} - found
    return found


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


@functools.lru_cache(maxsize=256)
def _imported(code: str) -> frozenset[str]:
    """The modules of cxrlib that some code imports by name; their __init__ files hold nothing that could change."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    inside = {name.removeprefix("cxrlib.") for name in names if name.startswith("cxrlib.")}
    return frozenset(module for module in inside if _file(module).is_file())


def _file(module: str) -> Path:
    return _PACKAGE / f"{module.replace('.', '/')}.py"
