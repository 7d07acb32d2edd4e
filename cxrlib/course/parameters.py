"""The parameters of the course: what the notebooks' `parameters` cells, the profiles and `-p` say, checked together."""

import ast
import itertools
import json
import re
from pathlib import Path

import yaml

from cxrlib.core.errors import InputError, nearest
from cxrlib.core.paths import NOTEBOOKS, PROFILES, expanded
from cxrlib.course.config import CourseConfig
from cxrlib.evaluation.objectives import parse_objective
from cxrlib.evaluation.thresholds import grid_values
from cxrlib.models.architectures import ARCHITECTURES
from cxrlib.training.comparison import parse_budget
from cxrlib.training.config import TrainConfig

COURSE = ("01_eda", "02_preprocess", "03_train_efficientnet", "04_compare_architectures", "05_thresholds", "06_gradcam")


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
    """Check all parameters before anything runs; returns them in their declared types (`CourseConfig`).

    Raises InputError for a name that no notebook has, and for values that a training, a comparison or the tuning of
    thresholds would refuse.
    """
    known = defaults()
    values = _typed(values, known)
    every = known | values
    try:
        for own in compared(every):
            CourseConfig(**every | {name: value for name, value in own.items() if name in TrainConfig.model_fields})
        parse_budget(every["compare_budget"])
    except InputError as error:
        raise InputError(f"in the comparison (archs, compare_...): {error}") from None
    grid_values(tuple(every[f"threshold_{end}"] for end in ("min", "max", "step")))
    parse_objective(every["objective"])
    return values


def compared(values: dict) -> list[dict]:
    """What the comparison trains: for each architecture the parameters that differ from the main training's."""
    own = {name.removeprefix("compare_"): value for name, value in values.items() if name.startswith("compare_")}
    named = [name.partition(":") for name in values["archs"] or ARCHITECTURES]  # resnet18, or resnet18:imagenet
    return [own | {"arch": arch} | ({"weights": weights} if weights else {}) for arch, _, weights in named]


def each_run(pairs: list[tuple[str, str]]) -> dict[str, dict]:
    """What to run for repeated parameters: {suffix of the run's name: {parameter: value}}, every combination once.

    [("arch", "resnet18"), ("arch", "vgg16"), ("lr", "3e-4")] is two runs, "-arch=resnet18" and "-arch=vgg16", both
    with that lr. Raises InputError where two runs would have one folder, and for a repeated run_dir.
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
    """Parameters in their declared types; InputError for an unknown name or an unusable value."""
    unknown = [name for name in values if name not in known]
    if unknown:
        named = f"{', '.join(sorted(known))}{nearest(unknown[0], known)}"
        raise InputError(f"unknown parameter {unknown[0]!r}; expected one of {named}")
    return CourseConfig(**known | values).model_dump(include=set(values))
