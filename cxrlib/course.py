"""The six notebooks through papermill: profiles, parameters, one run after another into a run folder."""

import ast
import os
import sys
import time
from dataclasses import fields
from pathlib import Path

import nbformat
import pandas as pd
import yaml

from cxrlib.errors import InputError, nearest, some
from cxrlib.findings import FINDINGS
from cxrlib.paths import NOTEBOOKS, PHANTOM, PROFILES, RUNS
from cxrlib.runs import RunFolder, open_data

COURSE = (
    "01_eda",
    "02_preprocess",
    "03_train_efficientnet",
    "04_compare_architectures",
    "05_thresholds",
    "06_gradcam",
)
# for the kernels: no bars in executed copies, and no warning about frozen modules
_QUIET = {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def notebook_parameters(name: str) -> dict:
    """Names and defaults of a notebook's `parameters` cell."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            lines = ast.parse(cell.source).body
            return {
                (line.target if isinstance(line, ast.AnnAssign) else line.targets[0]).id: ast.literal_eval(line.value)
                for line in lines
            }
    raise InputError(f"notebook {name} has no cell tagged parameters")


def read_profile(profile: str | Path) -> dict:
    """The parameters of a profile: a name from notebooks/profiles, or the path of a YAML file."""
    path = PROFILES / f"{profile}.yaml" if (PROFILES / f"{profile}.yaml").is_file() else Path(profile)
    known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if not path.is_file():
        raise InputError(
            f"no profile {str(profile)!r}; expected {', '.join(known)} or a YAML file{nearest(profile, known)}"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a YAML file ({' '.join(str(error).split())[:120]}); expected name: value"
        ) from None
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path} holds no parameters; expected lines of name: value")
    return values or {}


def check_parameters(values: dict) -> dict[str, dict]:
    """The parameters each notebook gets: {notebook: {name: value}}. Everything is checked before anything runs.

    Text is converted to the type of the default. Raises InputError for a name that no notebook knows (with the nearest
    one), for another type, and for values that a training run would refuse.
    """
    from cxrlib.training import TrainConfig

    defaults = {name: notebook_parameters(name) for name in COURSE}
    known = _merged(defaults)
    values = {name: _convert(name, value, known) for name, value in values.items()}
    every = known | values
    trained = {field.name for field in fields(TrainConfig)}
    TrainConfig.of(**{name: value for name, value in every.items() if name in trained})
    try:
        for compared in _compared(every):
            TrainConfig.of(**{name: value for name, value in (every | compared).items() if name in trained})
    except InputError as error:
        raise InputError(f"in the comparison (archs, compare_...): {error}") from None
    _check_thresholds(every)
    for name, least in {"samples": 1, "test_subset": 0, "replicates": 0}.items():
        if every[name] < least:
            raise InputError(f"{name} {every[name]} is too small; expected at least {least}")
    return {
        name: {parameter: value for parameter, value in values.items() if parameter in parameters}
        for name, parameters in defaults.items()
    }


def run_course(profile: str = "quick", parameters: dict | None = None, data: str | Path | None = None) -> RunFolder:
    """Run the six notebooks headless into one run folder, and print where the results are.

    profile: see `read_profile`; parameters: override the profile's; data: a folder of radiographs with its CSV, else
    the phantoms. Raises InputError for bad input before anything runs, RuntimeError where a notebook fails; its
    executed copy, with the error in it, stays in the run folder.
    """
    values = read_profile(profile) | (parameters or {})
    values.setdefault("run_dir", str(RUNS / Path(profile).stem))
    if data is not None:
        values["img_root"] = str(data)
    check_parameters(values)
    for name in {"run_dir", "img_root", "csv_path"} & set(values):  # the notebooks run in another folder than this
        values[name] = str(Path(values[name]).expanduser().resolve()) if values[name] else ""
    each = check_parameters(values)
    every = _merged({name: notebook_parameters(name) | each[name] for name in COURSE})
    opened = open_data(values.get("csv_path", ""), values.get("img_root", PHANTOM))
    print(f"data    {opened.summary}")
    _check_machine(every)
    run = RunFolder(values["run_dir"])
    run.start(
        profile=str(profile),
        parameters=every,
        data={
            "csv_path": str(opened.csv_path),
            "img_root": str(opened.img_root),
            "images": len(opened.entries),
            "fingerprint": opened.fingerprint,
        },
    )
    print(f"run     {run.path}")
    for number, name in enumerate(COURSE, start=1):
        print(f"[{number}/{len(COURSE)}] {name} ", end="", flush=True)
        seconds = _execute(name, each[name], run)
        print(f"{seconds:.0f} s", flush=True)
        run.record(name, seconds=round(seconds, 1))
    print(_outcome(run))
    return run


def _execute(name: str, parameters: dict, run: RunFolder) -> float:
    import papermill

    began = time.perf_counter()
    run.notebooks.mkdir(parents=True, exist_ok=True)
    before = {variable: os.environ.get(variable) for variable in _QUIET}
    os.environ.update(_QUIET)
    try:
        papermill.execute_notebook(
            NOTEBOOKS / f"{name}.ipynb",
            run.notebooks / f"{name}.ipynb",
            parameters=parameters,
            kernel_name="python3",
            cwd=NOTEBOOKS,
            progress_bar=sys.stderr.isatty(),
            extra_arguments=["--IPKernelApp.log_level=50"],  # no warning about ports of this machine
        )
    except papermill.PapermillExecutionError as error:
        print()
        where = f"notebook {name}, cell {error.exec_count}; its executed copy: {run.notebooks / f'{name}.ipynb'}"
        what = " ".join(str(error.evalue).split())
        if error.ename == "InputError":
            raise InputError(f"{what} ({where})") from None
        raise RuntimeError(f"{error.ename}: {what} ({where})") from None
    finally:
        for variable, value in before.items():
            os.environ.pop(variable)
            if value is not None:
                os.environ[variable] = value
    return time.perf_counter() - began


def _outcome(run: RunFolder) -> str:
    table = pd.read_csv(run.metrics, index_col="finding")
    macro, defined = table.loc["macro"], table.drop("macro")["auroc"].notna().sum()
    parts = pd.read_csv(run.splits)
    seen = parts.loc[parts["part"] != "test", "patient"]
    leaked = parts.loc[parts["part"] == "test", "patient"].isin(seen).mean()
    patients = f"{leaked:.0%} of them of patients seen in training or tuning" if leaked else "all of unseen patients"
    return (
        f"\nmacro AUROC on test {macro['auroc']:.3f} "
        f"(95 % interval {macro['auroc_low']:.3f} to {macro['auroc_high']:.3f}; "
        f"over {defined} of {len(FINDINGS)} findings; {macro['n']:.0f} images, {patients})\n"
        f"metrics     {run.metrics}\nnotebooks   {run.notebooks}\nfigures     {run.figures}"
    )


def _merged(parameters: dict[str, dict]) -> dict:
    """The parameters of all notebooks in one; a name means the same in each."""
    return {name: value for each in parameters.values() for name, value in each.items()}


def _compared(values: dict) -> list[dict]:
    """What the comparison trains: for each architecture the parameters that differ from the main training's."""
    from cxrlib.models import ARCHITECTURES

    own = {name.removeprefix("compare_"): value for name, value in values.items() if name.startswith("compare_")}
    return [own | {"arch": arch} for arch in values["archs"] or ARCHITECTURES]


def _check_thresholds(values: dict) -> None:
    """InputError for a grid or an objective that notebook 5 would refuse."""
    from cxrlib.predictions import Predictions
    from cxrlib.thresholds import grid_values, tune_thresholds

    grid_values(tuple(values[f"threshold_{end}"] for end in ("min", "max", "step")))
    one = Predictions([[0.5] * len(FINDINGS)], [[1] * len(FINDINGS)], ["one"], [1])
    tune_thresholds(one, objective=values["objective"], replicates=0)


def _check_machine(values: dict) -> None:
    """InputError for a device or weights that cannot be had here, before an hour of training says so."""
    from cxrlib.models import build_model
    from cxrlib.training import pick_device

    pick_device(values["device"])
    for each in [values, *(values | compared for compared in _compared(values))]:
        if each["weights"] != "none":
            build_model(each["arch"], each["weights"], each["image_size"])


def _convert(name: str, value, known: dict):
    if name not in known:
        raise InputError(f"unknown parameter {name!r}; expected one of {some(sorted(known), 60)}{nearest(name, known)}")
    wanted = type(known[name])
    try:
        if isinstance(value, str) and wanted is bool:
            value = {"true": True, "false": False}[value.lower()]
        elif isinstance(value, str) and wanted is list:
            value = [item.strip() for item in value.split(",") if item.strip()]
        elif isinstance(value, str) and wanted in (int, float):
            value = wanted(value)
        elif wanted is float and type(value) is int:
            value = float(value)
    except (ValueError, KeyError):
        pass
    if type(value) is not wanted or (wanted is list and not all(isinstance(item, str) for item in value)):
        raise InputError(f"parameter {name} is {value!r}; expected {wanted.__name__}, such as {known[name]!r}")
    return value
