"""The six notebooks through papermill, each run in its own folder; finished notebooks are not run again."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import nbformat
import pandas as pd

from cxrlib.core.errors import InputError
from cxrlib.core.paths import NOTEBOOKS, RUNS, check_folder, one_process
from cxrlib.course import notebooks
from cxrlib.course.config import CourseConfig, with_paths
from cxrlib.course.notebooks import COURSE, notebook_parameters
from cxrlib.course.opening import Data, open_data
from cxrlib.course.report.page import write_index
from cxrlib.course.runs import RunFolder
from cxrlib.data.findings import FINDINGS
from cxrlib.models.architectures import build_model
from cxrlib.training.device import pick_device

# for the kernels: no bars in executed copies, no warning about frozen modules, and the kernel of this environment
_QUIET = {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PREFER_ENV_PATH": "1"}


class Plan(NamedTuple):
    """One run that has been checked."""

    profile: str
    given: dict[str, dict]  # {notebook: what differs from its defaults}
    every: dict  # the parameters of all notebooks in one


def plan_runs(profile: str = "quick", pairs: Sequence = (), data: str | Path | None = None) -> list[Plan]:
    """Check a profile, what overrides it (`each_run`) and the data's folder. InputError; nothing is written."""
    plans = []
    for suffix, values in notebooks.each_run(pairs).items():
        values = notebooks.read_profile(profile) | values | ({} if data is None else {"img_root": data})
        values["run_dir"] = f"{Path(str(values.get('run_dir') or RUNS / Path(profile).stem))}{suffix}"
        # the notebooks run in another folder than this
        values = with_paths(notebooks.check_parameters(values), os.path.abspath)
        given = {name: {key: values[key] for key in notebook_parameters(name) if key in values} for name in COURSE}
        plans.append(Plan(str(profile), given, notebooks.defaults() | values))
    return plans


def run_course(plans: list[Plan], force: bool = False) -> None:
    """Run the notebooks that have not finished with the same parameters and data, or, with `force`, all.

    Raises InputError for bad input before anything runs, RuntimeError, after the other runs, for a failed notebook.
    """
    data, failed = [], []
    for plan in plans:
        check_folder(plan.every["run_dir"], "figures", "notebooks")
        data.append(open_data(plan.every["csv_path"], plan.every["img_root"]))
        pick_device(plan.every["device"])  # what cannot be had here is said before an hour of training
        for config in (CourseConfig(**plan.every), *notebooks.compared(plan.every).values()):
            if config.weights != "none":
                build_model(config.arch, config.weights, config.image_size)
    for plan, one in zip(plans, data, strict=True):
        try:
            _run(plan, one, force)
        except (InputError, RuntimeError) as error:
            if len(plans) == 1:
                raise
            failed.append(Path(plan.every["run_dir"]).name)
            print(f"failed: {error}")
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(plans)} runs failed: {', '.join(failed)}")


def _run(plan: Plan, data: Data, force: bool) -> None:
    run = RunFolder(plan.every["run_dir"])
    print(f"data    {data.summary}\nrun     {run.path}")
    about = {"csv_path": str(data.csv_path), "img_root": str(data.img_root), "images": len(data.entries),
             "phantoms": data.are_phantoms, "fingerprint": data.fingerprint}  # fmt: skip
    lock = run.path.with_name(f".{run.path.name}.lock")  # next to the folder, which `start` may move aside
    with one_process(lock, f"at work in {run.path}", wait=False):
        bases = {name: notebooks.basis(name, plan.every, data) for name in COURSE}
        goes_on = run.read().get("data") == about and not force
        again = notebooks.reasons_to_rerun(run, bases) if goes_on else dict.fromkeys(COURSE, "")
        if again:
            started = {"profile": plan.profile, "parameters": plan.every, "data": about, "beside": data.beside}
            run.start(set(COURSE) - set(again), **started)
        for name in again:
            notebooks.forget(run, name)
        try:
            for number, name in enumerate(COURSE, 1):
                title = f"[{number}/{len(COURSE)}] {name}"
                if name not in again:
                    print(f"{title} has finished before")
                    continue
                if again[name]:
                    print(f"{title} runs again: {again[name]}")
                _one(run, name, title, plan.given[name], bases[name])
        finally:
            write_index(run.path.parent)
    print(_outcome(run))


def _one(run: RunFolder, name: str, title: str, given: dict, basis: dict) -> None:
    earlier, began = notebooks.stamps(run), time.time()
    print(title, end=" ", flush=True)
    try:
        _execute(name, given, run)
    except (InputError, RuntimeError) as error:
        print("failed")
        run.record(name, error=str(error))
        raise
    seconds = time.time() - began
    print(f"\r{title} {seconds:.0f} s" if sys.stdout.isatty() else f"{seconds:.0f} s")
    run.record(name, seconds=round(seconds, 1))
    notebooks.remember(run, name, basis, sorted(dict(notebooks.stamps(run).items() - earlier.items())))


def _execute(name: str, given: dict, run: RunFolder) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError

    copy = run.notebooks / f"{name}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # names are checked by us; it cannot read "epochs=2"
    try:
        found_as_here = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}  # the package, if not installed
        with patch.dict(os.environ, _QUIET | found_as_here):
            shown = {"desc": name, "leave": False, "disable": not sys.stdout.isatty()}  # over TQDM_DISABLE
            how = {"kernel_name": "python3", "cwd": NOTEBOOKS, "progress_bar": shown}
            how["extra_arguments"] = ["--IPKernelApp.log_level=50"]  # no warning about ports of this machine
            papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", copy, parameters=given, **how)
    except papermill.PapermillExecutionError as error:
        where = f"notebook {name}, cell {error.exec_count}; its executed copy: {copy}"
        what = " ".join(str(error.evalue).split())
        if error.ename == "InputError":
            raise InputError(f"{what} ({where})") from None
        raise RuntimeError(f"{error.ename}: {what} ({where})") from None
    except DeadKernelError:
        cells = [cell for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code"]
        done = sum(cell.metadata.get("papermill", {}).get("status") == "completed" for cell in cells)
        what = "the kernel died, as it does where memory runs out; take a smaller batch_size or image_size"
        raise RuntimeError(f"{what} (notebook {name}, cell {done + 1}; its executed copy: {copy})") from None


def _outcome(run: RunFolder) -> str:
    table = pd.read_csv(run.metrics, index_col="finding")
    macro, defined = table.loc["macro"], table.drop("macro")["auroc"].notna().sum()
    patient = pd.read_csv(run.splits, index_col="part")["patient"]
    leaked = patient.loc[["test"]].isin(patient.drop("test")).mean()
    patients = f"{leaked:.0%} of them of patients seen in training or tuning" if leaked else "all of unseen patients"
    interval = f"95 % interval {macro['auroc_low']:.3f} to {macro['auroc_high']:.3f}"
    counts = f"over {defined} of {len(FINDINGS)} findings; {macro['n']:.0f} images, {patients}"
    files = f"metrics     {run.metrics}\nnotebooks   {run.notebooks}\nfigures     {run.figures}\n"
    pages = f"all runs    {run.path.parent / 'index.html'}\nreport      cxr report {run.path}"
    return f"\nmacro AUROC on test {macro['auroc']:.3f} ({interval}; {counts})\n{files}{pages}"
