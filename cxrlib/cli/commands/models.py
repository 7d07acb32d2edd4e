"""cxr ensemble and export."""

from pathlib import Path

from cxrlib.cli.options import EnsembleOptions, ExportOptions
from cxrlib.core.errors import InputError
from cxrlib.core.paths import check_folder
from cxrlib.explain.export import export as export_model
from cxrlib.models.checkpoints import load_checkpoint, load_ensemble


def ensemble(options: EnsembleOptions) -> None:
    """Write models of one split as one file, which predict, eval and gradcam take as a model."""
    out = Path(options.out)
    check_folder(out.parent)
    several = load_ensemble(options.weights)
    if len(several.members) < 2:
        raise InputError(f"{several.name} is a single model; expected two or more")
    several.save(out)
    seen = " and ".join(f"{len(names):,} {part}" for part, names in several.parts.items())
    print(f"wrote {out}: {len(several.members)} models, which have seen {seen} images; cxr eval --update_checkpoint "
          "calibrates each and tunes thresholds for their mean")  # fmt: skip


def export(options: ExportOptions) -> None:
    """Write a checkpoint as ONNX."""
    check_folder(Path(options.out).parent)
    path = export_model(load_checkpoint(options.weights), options.out)
    print(f"wrote {path}, {path.stat().st_size / 1e6:.0f} MB; its metadata says what goes in and what comes out")
