"""What the commands take, declared once: `main` makes flags of each class, and a command's help of its docstring."""

from typing import Literal

from pydantic import Field

from cxrlib.core.config import Archs, Config, Numbers, Place, Places
from cxrlib.core.paths import CACHE, PHANTOM, RUNS
from cxrlib.course.config import CALIBRATE, DataConfig, FilesConfig
from cxrlib.models.names import METHODS
from cxrlib.phantom.config import PhantomConfig
from cxrlib.training.config import DEVICES, TrainConfig

NOT_COMPARED = ("arch", "epochs", "resume")  # parameters of a training that each candidate of a comparison has itself


class _Cached(DataConfig):
    cache_dir: Place = Field(str(CACHE), description="where decoded images are kept")


class TrainOptions(TrainConfig, _Cached):
    """Train, choose the epoch on validation: model_best.pth."""

    run_dir: Place = Field(".", description="folder of model_best.pth, model_last.pth and history.csv")

    @property
    def config(self) -> TrainConfig:
        """The parameters of the training alone."""
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields})


class CompareOptions(TrainOptions):
    """Train several architectures on one budget, each with several seeds, and compare accuracy and cost."""

    archs: Archs = Field([], description="such as resnet18,efficientnet_lite0:none (its own --weights); default: all")
    seeds: Numbers = Field([0, 1, 2], description="each candidate is trained once with each seed")
    budget: str = Field("epochs=2", description="the same for all: epochs=2, steps=200 or minutes=3")
    sizes: Numbers = Field([], description="also train on about this many images, such as 250,500: a learning curve")
    subset: int = Field(0, ge=0, description="approximate number of test images; 0 for all")
    jobs: int = Field(1, ge=0, description="trainings at the same time on a CPU, one thread each; 0 is one per core")
    run_dir: Place = Field(str(RUNS / "compare"), description="folder of the models, tables and figures")


class _Models(Config):
    weights: Places = Field(["model_best.pth"], description="models; of several, the mean of their calibrated scores")
    out: Place = Field("results", description="folder of the results")
    batch_size: int = Field(32, ge=1, description="images per step")
    device: Literal[DEVICES] = Field("auto", description=", ".join(DEVICES))


class HeldOutOptions(_Cached, _Models):
    """Models of one split, and the part of its data set that they were not trained on."""

    subset: int = Field(0, ge=0, description="approximate number of test images, whole patients; 0 for all")
    num_workers: int = Field(0, ge=0, description="processes that read ahead; 0 is right with the cache")
    replicates: int = Field(1000, ge=0, description="bootstrap replicates over patients; 0 for no interval")


class EvalOptions(HeldOutOptions):
    """Calibrate and tune on the validation images of a checkpoint, then report on its test images."""

    calibrate: Literal[CALIBRATE] = Field("auto", description="none, platt, temperature (auto: the best), isotonic")
    grid: str = Field("0.05:0.4:0.05", description="thresholds to try, first:last:step, or exact for all scores")
    objective: str = Field("f1", description="f1, f2, youden, specificity>=0.9, sensitivity>=0.9, with @0.95 for new "
                           "patients with that confidence, or cost=10 (false alarms that a miss is worth)")  # fmt: skip
    thresholds: Place = Field("", description="thresholds.json to use instead of tuning, as notebook 05 saves it")
    update_checkpoint: bool = Field(False, description="also put thresholds and calibration into the checkpoint")
    external: Place = Field("", description="another hospital's folder, with labels.csv or --csv_path, to measure only")
    here: Place = Field("", description="for --external: predictions_test.npz; default: the one beside the checkpoint")
    audit: bool = Field(False, description="also audit.csv (gaps by sex, age, view) and experts.csv (expert labels)")


class GradcamOptions(HeldOutOptions):
    """Overlays of heat maps on test images; with --boxes, a score against the radiologists' boxes."""

    method: Literal[METHODS] = Field("gradcam", description=f"{', '.join(METHODS)} (which is a control)")
    boxes: bool = Field(False, description="score the maps against the boxes, with controls")
    samples: int = Field(8, ge=1, description="number of overlays")
    thresholds: Place = Field("", description="thresholds.json, beside its calibration.json; default: the checkpoint's")


class PredictOptions(_Models):
    """Predict your own radiographs (PNG, JPEG, DICOM): a line each, a table and a page."""

    images: Places = Field(description="PNG, JPEG or DICOM files, folders of them, or globs in quotes")
    batch_size: int = Field(16, ge=1, description="images per step")
    no_page: bool = Field(False, description="write no predictions.html, and compute no heat maps")
    as_json: bool = Field(False, description="one JSON object per image and line on the screen, for programs")
    force: bool = Field(False, description="also predict what is no frontal chest radiograph as in training")
    threads: int = Field(0, ge=0, description="threads that decode images; 0 for one per core")


class EnsembleOptions(Config):
    """Several models of one split as one file."""

    weights: Places = Field(description="checkpoints, or ensembles, of one split")
    out: Place = Field("ensemble.pth", description="the file to write")


class ExportOptions(Config):
    """A model as ONNX, with normalization, calibration, findings and thresholds (needs the extra onnx)."""

    weights: Place = Field("model_best.pth", description="checkpoint of one model")
    out: Place = Field("model.onnx", description="file to write")


class PreprocessOptions(_Cached):
    """Decode and resize every radiograph once, into the cache."""

    image_size: int = Field(224, ge=16, le=4096, description="pixels per side")


class PhantomOptions(PhantomConfig):
    """Draw a data set of phantom radiographs in the NIH layout."""

    root: Place = Field(str(PHANTOM), description="folder to make")


class DoctorOptions(FilesConfig):
    """What is wrong with a data set, counted and named; exit code 1 for a fault."""

    deep: bool = Field(False, description="decode every pixel, on all cores, not only the headers")
    report: Place = Field("", description="write everything that was found, with all names")


class DownloadOptions(Config):
    """Download a data set through kagglehub."""

    dataset: Literal["data", "sample"] = Field("sample", description="data (112,120 images, 42 GB) or sample (4 GB)")


class GatherOptions(FilesConfig):
    """Make a data set of its own out of a named subset."""

    names: Place = Field(description="file of image names, one per line, such as data/subsets/nih-mini.txt")
    out: Place = Field(description="folder to make")


class RunOptions(Config):
    """Run the six notebooks headless; what has finished is not run again."""

    profile: str = Field("quick", description="a name from notebooks/profiles, or a YAML file")
    data: str | None = Field(None, description="a folder of radiographs with its CSV; default: phantoms")
    parameter: list[tuple[str, str]] = Field([], description="such as arch vgg16; several values make several runs")
    force: bool = Field(False, description="also run again what has finished with the same parameters")
    dry_run: bool = Field(False, description="check every name and type, run nothing")


class ReportOptions(Config):
    """The report of a run as one HTML file, and as PDF where a browser is installed."""

    run_dir: Place = Field(str(RUNS / "quick"), description="the folder of the run")


class FiguresOptions(Config):
    """Copies of a run's figures, small enough for a page."""

    run_dir: Place = Field(description="the folder of the run")
    out: Place = Field(description="folder of the copies; inside the project only for a run on phantoms")
