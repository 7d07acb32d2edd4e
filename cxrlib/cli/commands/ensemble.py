"""cxr ensemble."""

from pathlib import Path

from cxrlib.cli.options import EnsembleOptions
from cxrlib.core.errors import InputError
from cxrlib.core.paths import check_folder
from cxrlib.models.ensembles import load_ensemble


def run(options: EnsembleOptions) -> None:
    """Write models of one split as one file, which predict, eval and gradcam take as a model."""
    out = Path(options.out)
    check_folder(out.parent)
    ensemble = load_ensemble(options.weights)
    if len(ensemble.members) < 2:
        raise InputError(f"{ensemble.name} is a single model; expected two or more")
    ensemble.save(out)
    seen = " and ".join(f"{len(names):,} {part}" for part, names in ensemble.parts.items())
    print(f"wrote {out}: {len(ensemble.members)} models, which have seen {seen} images; cxr eval --update_checkpoint "
          "calibrates each and tunes thresholds for their mean")  # fmt: skip
