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
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise InputError(
            f"{path} is not a YAML file ({' '.join(str(error).split())[:120]}); expected name: value"
        ) from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no parameters; expected lines of name: value")
    return values


def check_parameters(values: dict) -> dict[str, dict]:
    """The parameters each notebook gets: {notebook: {name: value}}. Everything is checked before anything runs.

    Text is converted to the type of the default. Raises InputError for a name that no notebook knows (with the nearest
    one), for another type, and for values that a training run would refuse.
    """
    from cxrlib.training import TrainConfig

    defaults = {name: notebook_parameters(name) for name in COURSE}
    known = {name: value for parameters in defaults.values() for name, value in parameters.items()}
    values = {name: _convert(name, value, known) for name, value in values.items()}
    trained = {field.name for field in fields(TrainConfig)}
    for parameters in defaults.values():
        merged = parameters | {name: value for name, value in values.items() if name in parameters}
        TrainConfig.of(**{name: value for name, value in merged.items() if name in trained})
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
    for name in {"run_dir", "img_root", "csv_path"} & set(values):  # the notebooks run in another folder than this
        values[name] = str(Path(values[name]).expanduser().resolve()) if values[name] else ""
    each = check_parameters(values)
    opened = open_data(values.get("csv_path", ""), values.get("img_root", PHANTOM))
    print(f"data    {opened.summary}")
    run = RunFolder(values["run_dir"])
    run.start(
        profile=str(profile),
        parameters=values,
        data={"csv_path": str(opened.csv_path), "img_root": str(opened.img_root)},
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
    # no bars in executed copies, and no warning of the kernel about frozen modules
    os.environ.update(TQDM_DISABLE="1", PYDEVD_DISABLE_FILE_VALIDATION="1")
    try:
        papermill.execute_notebook(
            NOTEBOOKS / f"{name}.ipynb",
            run.notebooks / f"{name}.ipynb",
            parameters=parameters,
            kernel_name="python3",
            cwd=NOTEBOOKS,
            progress_bar=sys.stderr.isatty(),
            extra_arguments=["--IPKernelApp.log_level=40"],  # no warning about unencrypted ports on this machine
        )
    except papermill.PapermillExecutionError as error:
        where = f"notebook {name}, cell {error.exec_count}; its executed copy: {run.notebooks / f'{name}.ipynb'}"
        if error.ename == "InputError":
            raise InputError(f"{error.evalue} ({where})") from None
        raise RuntimeError(f"{error.ename}: {error.evalue} ({where})") from None
    return time.perf_counter() - began


def _outcome(run: RunFolder) -> str:
    macro = pd.read_csv(run.metrics, index_col="finding").loc["macro"]
    parts = pd.read_csv(run.splits)
    seen = parts.loc[parts["part"] != "test", "patient"]
    leaked = parts.loc[parts["part"] == "test", "patient"].isin(seen).mean()
    patients = f"{leaked:.0%} of them of patients seen in training or tuning" if leaked else "all of unseen patients"
    return (
        f"\nmacro AUROC on test {macro['auroc']:.3f} "
        f"(95 % interval {macro['auroc_low']:.3f} to {macro['auroc_high']:.3f}; {macro['note']}; "
        f"{macro['n']:.0f} images, {patients})\n"
        f"metrics     {run.metrics}\nnotebooks   {run.notebooks}\nfigures     {run.figures}"
    )


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
    if type(value) is not wanted:
        raise InputError(f"parameter {name} is {value!r}; expected {wanted.__name__}, such as {known[name]!r}")
    return value
