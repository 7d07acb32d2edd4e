"""cxr export."""

from pathlib import Path

from cxrlib.cli.options import ExportOptions
from cxrlib.core.paths import check_folder
from cxrlib.explain.export import export
from cxrlib.models.checkpoints import load_checkpoint


def run(options: ExportOptions) -> None:
    """Write a checkpoint as ONNX."""
    check_folder(Path(options.out).parent)
    path = export(load_checkpoint(options.weights), options.out)
    print(f"wrote {path}, {path.stat().st_size / 1e6:.0f} MB; its metadata says what goes in and what comes out")
