"""cxr gradcam."""

from pathlib import Path

from cxrlib.cli.commands.opening import data_of, held_out, images_of, model_of, operating_point_of
from cxrlib.cli.options import GradcamOptions
from cxrlib.core.errors import InputError
from cxrlib.core.paths import check_folder, write_csv
from cxrlib.explain.case_maps import localize
from cxrlib.explain.gradcam import check_method
from cxrlib.explain.localization import box_cases, interval_table
from cxrlib.explain.overlays import choose, highest_labelled, overlay_maps, score_table
from cxrlib.models.checkpoints import load_checkpoint
from cxrlib.plots.overlays import write_overlays
from cxrlib.training.inference import predict
from cxrlib.training.inputs import make_dataset


def run(options: GradcamOptions) -> None:
    """Overlays of one labelled finding each, on test images; with boxes, also a score of the maps."""
    check_method(options.method)
    check_folder(options.out)
    checkpoint, folder = load_checkpoint(options.weights), Path(options.out) / "gradcam"
    calibrator, thresholds = operating_point_of(options, checkpoint)
    model, data = model_of(options, checkpoint), data_of(options)
    _, test = held_out(options, checkpoint, data, needed=("test",))
    chosen = choose(test, options.samples, checkpoint["config"]["seed"])
    if len(chosen) < options.samples:
        print(f"the test part holds {len(chosen)} images, fewer than the {options.samples} samples asked for")
    images = images_of(options, data, model.image_size, list(chosen["image"]), options.out)
    dataset = make_dataset(chosen, images, images.image_size)
    predictions = calibrator.apply(predict(model, dataset, options.batch_size, num_workers=options.num_workers))
    table = score_table(predictions, highest_labelled(predictions), thresholds)
    paths = write_overlays(folder, overlay_maps(model, images, table, options.method), table, images, data.boxes)
    print(f"wrote {len(paths)} overlays, a contact sheet and scores.csv to {folder}")
    if options.boxes:
        _localize(options, model, data, test, folder)


def _localize(options: GradcamOptions, model, data, test, folder: Path) -> None:
    """Score the maps of all boxed test images and print the pointing game."""
    if data.boxes is None:
        raise InputError(f"{options.img_root} holds no BBox_List_2017.csv; put NIH's list there to score against boxes")
    cases = box_cases(data.boxes, test)
    images = images_of(options, data, model.image_size, list(cases["image"].unique()), options.out)
    table = localize(
        model, images, cases, options.method, options.replicates, batch_size=options.batch_size, progress=True
    )
    write_csv(folder / "localization.csv", table, index=False)
    print(f"pointing game, {options.method}, 95 % intervals over patients\n{interval_table(table).to_string()}")
    print(f"wrote {folder / 'localization.csv'}, which also has energy, IoU and IoBB")
