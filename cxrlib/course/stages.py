"""Whether a notebook must run again: what its result depends on, and whether it last ran with the same.

Each executed copy has a NAME.json, written when the notebook has finished: its parameters, the fingerprint of the data,
digests of its code and of the modules it uses, the versions of the libraries, and the files it wrote.
"""

import ast
import functools
import hashlib
import json
import re
from pathlib import Path

import cxrlib
from cxrlib.core.paths import write_json
from cxrlib.course.parameters import COURSE, code_cells
from cxrlib.course.runs import RunFolder, versions

_PACKAGE = Path(cxrlib.__file__).parent


def basis(name: str, parameters: dict, fingerprint: str) -> dict:
    """What the result of a notebook depends on; `parameters` holds all of its own, defaults included."""
    code = _code(name)
    return {
        "parameters": {key: value for key, value in parameters.items() if key != "run_dir"},
        "data": fingerprint,
        "notebook": _digest(code.encode()),
        "cxrlib": {module: _digest(_file(module).read_bytes()) for module in sorted(modules(code))},
        "versions": versions(),
    }


def reads_from(name: str) -> list[str]:
    """The earlier notebooks whose results this one reads: those it names in quotes, as `run.need` has it do."""
    code = _code(name)
    return [earlier for earlier in COURSE[: COURSE.index(name)] if re.search(rf"""["']{earlier}["']""", code)]


def modules(code: str) -> set[str]:
    """The modules of cxrlib, such as "data.cache", that some code imports, and those that these import, and so on."""
    found, waiting = set(), set(_imported(code))
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= _imported(_file(module).read_text(encoding="utf-8")) - found
    return found


def reasons_to_rerun(run: RunFolder, every: dict[str, dict]) -> dict[str, str]:
    """{notebook: why it must run}, in the order of the course; one that is not in it has finished with this very basis.

    every: {notebook: its basis}.
    """
    again = {}
    for name in COURSE:
        why = _difference(run, name, every[name])
        remade = [earlier for earlier in reads_from(name) if earlier in again]
        if why or remade:
            again[name] = why or f"reads what {remade[0]} makes"
    return again


def remember(run: RunFolder, name: str, basis: dict, files: list[str]) -> None:
    """Write that a notebook has finished, with what, and which files of the run folder it wrote."""
    write_json(_record(run, name), basis | {"files": files})


def forget(run: RunFolder, name: str) -> None:
    """Take back that a notebook has finished, with the tables and figures that could be taken for the next run's.

    What lies in the folders of architectures and comparisons stays: a comparison that was stopped goes on from there.
    """
    record = _read(run, name)
    files = record.get("files", []) if isinstance(record, dict) else []
    tables = {file for file in files if "/" not in file}
    for path in (*(run.path / file for file in tables), *run.figures.glob(f"{name[:2]}_*"), _record(run, name)):
        path.unlink(missing_ok=True)


def stamps(run: RunFolder) -> dict[str, int]:
    """When each file of the run folder was last written; what differs after a notebook is what it wrote.

    Results of an earlier training, which `set_aside` moves to previous-N, are not counted: they may be removed.
    """
    paths = [path for path in run.path.rglob("*") if path.is_file() and run.notebooks not in path.parents]
    names = {path.relative_to(run.path).as_posix(): path for path in paths if path != run.path / "run.json"}
    return {name: path.stat().st_mtime_ns for name, path in names.items() if "/previous-" not in name}


def _difference(run: RunFolder, name: str, basis: dict) -> str:
    record = _read(run, name)
    if not record:
        return "has not finished yet"
    if not isinstance(record, dict) or set(record) != set(basis) | {"files"}:
        return f"{_record(run, name).name} cannot be read"
    for key, now in basis.items():
        before = record[key]
        if before == now:
            continue
        if not isinstance(now, dict) or not isinstance(before, dict):
            return {"data": "other data", "notebook": "its code changed"}.get(key, f"other {key}")
        changed = [each for each in sorted({*now, *before}) if now.get(each) != before.get(each)]
        if key == "cxrlib":
            return f"cxrlib changed ({', '.join(changed)})"
        return ", ".join(f"{each} {before.get(each)!r} -> {now.get(each)!r}" for each in changed)
    gone = [file for file in record["files"] if not (run.path / file).is_file()]
    return f"{gone[0]} is gone" if gone else ""


def _record(run: RunFolder, name: str) -> Path:
    return run.notebooks / f"{name}.json"


def _read(run: RunFolder, name: str):
    """The record of a notebook; None where there is none, "unreadable" where it cannot be read."""
    try:
        return json.loads(_record(run, name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return "unreadable"


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


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
