"""cxr ensemble and export: models as one file, and for programs without PyTorch."""

from pathlib import Path

from cxrlib.cli import options as declared
from cxrlib.core.errors import InputError
from cxrlib.core.paths import check_folder
from cxrlib.explain import export as onnx
from cxrlib.models.checkpoints import load_checkpoint, load_ensemble


def _keep(weights: list[str], out: Path) -> None:
    if out.resolve() in (Path(path).resolve() for path in weights):
        raise InputError(f"{out} is a model that is read; expected another file to write (--out)")


def ensemble(options: declared.EnsembleOptions) -> None:
    """Write models of one split as one file, which predict, eval and gradcam take as a model."""
    out = Path(options.out)
    check_folder(out.parent)
    _keep(options.weights, out)
    several = load_ensemble(options.weights)
    if len(several.members) < 2:
        raise InputError(f"{several.name} is a single model; expected two or more")
    several.save(out)
    seen = " and ".join(f"{len(names):,} {part}" for part, names in several.parts.items())
    wrote = f"wrote {out}: {len(several.members)} models, which have seen {seen} images"
    print(f"{wrote}; cxr eval --update_checkpoint calibrates each and tunes thresholds for their mean")


def export(options: declared.ExportOptions) -> None:
    """Write a checkpoint as ONNX."""
    check_folder(Path(options.out).parent)
    _keep([options.weights], Path(options.out))
    path = onnx.export(load_checkpoint(options.weights), options.out)
    print(f"wrote {path}, {path.stat().st_size / 1e6:.0f} MB; its metadata says what goes in and what comes out")
