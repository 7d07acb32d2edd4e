"""cxr gradcam."""

from pathlib import Path

from cxrlib.cli.commands.opening import (
    data_of,
    held_out,
    images_for,
    models_of,
    operating_point_of,
    predictions_of,
)
from cxrlib.cli.options import GradcamOptions
from cxrlib.core.errors import InputError
from cxrlib.core.paths import check_folder, write_csv
from cxrlib.evaluation.calibration import mean_calibrated
from cxrlib.explain.case_maps import case_maps, control_maps
from cxrlib.explain.gradcam import check_method, mean_maps
from cxrlib.explain.localization import box_cases, interval_table, score_boxes
from cxrlib.explain.overlays import choose, highest_labelled, overlay_maps, score_table
from cxrlib.models.checkpoints import load_ensemble
from cxrlib.plots.overlays import write_overlays


def run(options: GradcamOptions) -> None:
    """Overlays of one labelled finding each, on test images; with boxes, also a score of the maps."""
    check_method(options.method)
    check_folder(options.out)
    ensemble, folder = load_ensemble(options.weights), Path(options.out) / "gradcam"
    calibrators, thresholds = operating_point_of(options, ensemble)
    models, data = models_of(options, ensemble), data_of(options)
    _, test = held_out(options, ensemble, data, needed=("test",))
    chosen = choose(test, options.samples, ensemble.config["seed"])
    if len(chosen) < options.samples:
        print(f"the test part holds {len(chosen)} images, fewer than the {options.samples} samples asked for")
    caches = images_for(options, models, data, list(chosen["image"]))
    predictions = mean_calibrated(calibrators, predictions_of(options, models, caches, chosen))
    table = score_table(predictions, highest_labelled(predictions), thresholds)
    each = [overlay_maps(*pair, table, options.method) for pair in zip(models, caches, strict=True)]
    maps = map(mean_maps, zip(*each, strict=True))
    paths = write_overlays(folder, maps, table, caches[0], data.boxes)
    print(f"wrote {len(paths)} overlays, a contact sheet and scores.csv to {folder}")
    if options.boxes:
        _localize(options, models, data, test, folder)


def _localize(options: GradcamOptions, models, data, test, folder: Path) -> None:
    """Score the maps of all boxed test images and print the pointing game; untrained is a network like the first."""
    if data.boxes is None:
        raise InputError(f"{options.img_root} holds no BBox_List_2017.csv; put NIH's list there to score against boxes")
    cases = box_cases(data.boxes, test)
    caches = images_for(options, models, data, list(cases["image"].unique()))
    how = {"method": options.method, "batch_size": options.batch_size, "progress": True}
    maps = mean_maps([case_maps(*pair, cases, **how) for pair in zip(models, caches, strict=True)])
    controls = control_maps(models[0], caches[0], cases, maps, **how)
    table = score_boxes(maps, cases, controls, replicates=options.replicates)
    write_csv(folder / "localization.csv", table, index=False)
    print(f"pointing game, {options.method}, 95 % intervals over patients\n{interval_table(table).to_string()}")
    print(f"wrote {folder / 'localization.csv'}, which also has energy, IoU and IoBB")
