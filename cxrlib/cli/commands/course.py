"""cxr run, report and figures."""

from pathlib import Path

from cxrlib.cli.options import FiguresOptions, ReportOptions, RunOptions
from cxrlib.course.report.page import export_figures, write_index, write_report
from cxrlib.course.runner import plan_runs, run_course
from cxrlib.course.runs import RunFolder


def run(options: RunOptions) -> None:
    """Run the six notebooks, or with --dry-run print what each would get."""
    plans = plan_runs(options.profile, options.parameter, options.data)
    if not options.dry_run:
        return run_course(plans, options.force)
    for plan in plans:
        print(f"run {plan.every['run_dir']}, profile {plan.profile}")
        for name, values in plan.given.items():
            print(f"  {name:<24} " + (", ".join(f"{key}={value!r}" for key, value in values.items()) or "defaults"))
    print("every name and type fits the notebooks; data, device and weights were not looked at")


def report(options: ReportOptions) -> None:
    """Write the report of a run, and link it from the page over all runs."""
    run_folder = RunFolder(Path(options.run_dir).absolute())
    for path in write_report(run_folder):
        print(f"wrote {path}")
    if (run_folder.path.parent / "index.html").exists():
        write_index(run_folder.path.parent)


def figures(options: FiguresOptions) -> None:
    """Copy the figures of a run, small enough for a page."""
    copies = export_figures(RunFolder(Path(options.run_dir).absolute()), Path(options.out))
    print(f"wrote {len(copies)} figures to {options.out}")
