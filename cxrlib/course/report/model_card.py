"""The model card of a run (Mitchell et al. 2019, "Model Cards for Model Reporting"): what it is for, and what not.

What is measured comes from the run folder (`Evidence`); what is known of the data comes from the literature, each
statement with its source.
"""

from cxrlib.course.report.evidence import Evidence
from cxrlib.phantom.patients import FIRST_PATIENT

# (statement, source)
LABELS = (
    (
        "The labels were read out of radiologists' reports by a program, not off the images.",
        "Wang et al. 2017, ChestX-ray8, CVPR",
    ),
    (
        "Against the majority of three radiologists on 810 test images the mined labels of the fourteen findings "
        "reach a mean Cohen's kappa of 0.21: 0.54 for Pneumothorax, 0.44 for Hernia, 0.34 for Effusion, about 0 "
        "for Pneumonia.",
        "counted from the expert labels of Nabulsi et al. 2021",
    ),
    (
        "Against adjudicated radiologists the mined label Pneumothorax has a positive predictive value of 0.49 and a "
        "sensitivity of 0.50.",
        "test part of Majkowska et al. 2019",
    ),
    (
        "Many positive labels describe treated disease, such as a pneumothorax with its drain in place.",
        "Oakden-Rayner 2017, Exploring the ChestXray14 dataset: problems",
    ),
)
DATA = (
    (
        "ChestX-ray14 holds 112,120 frontal radiographs of 30,805 patients of one hospital; 7.2 % of the patients have "
        "45 % of the images.",
        "counted from Data_Entry_2017_v2020.csv",
    ),
    (
        "Its official test part is sicker than the rest: No Finding 38.5 % against 58.4 %, Pneumothorax 10.4 % against "
        "3.0 %. Thresholds tuned on the one meet another prevalence in the other.",
        "counted from Data_Entry_2017_v2020.csv and the official lists",
    ),
)
PHANTOMS = (
    (
        "Phantoms are drawn by this project in the layout of ChestX-ray14. Scores on them show that the code works; "
        "they are no evidence about radiographs of patients.",
        "data/README.md",
    ),
)
LIMITS = (
    "One hospital, frontal views, mostly adults. Other hospitals, machines, lateral views and children were not tried.",
    "A score ranks images; it is a probability only as far as its calibration, measured on this test part, reaches.",
    "A heat map shows where a score came from, not whether the reason is right.",
    "A model can learn what goes with disease instead: drains, tubes, the bedside view, letters on the film.",
    "The labels bound every figure: a model that reads better than they do cannot be told from one that reads worse.",
)


def card(evidence: Evidence) -> dict:
    """The parts of the card that depend on the run: whose radiographs, statements about them, groups."""
    phantoms = _are_phantoms(evidence)
    return {
        "phantoms": phantoms,
        "data": PHANTOMS if phantoms else DATA,
        "labels": () if phantoms else LABELS,
        "limits": LIMITS,
        "groups": macro_rows(evidence, "audit.csv"),
    }


def _are_phantoms(evidence: Evidence) -> bool:
    recorded = evidence.value("run.json", "data", "phantoms")
    splits = evidence.table("splits.csv")
    if recorded is None and splits is not None:  # notebooks run by hand record it nowhere
        return bool((splits["patient"] >= FIRST_PATIENT).all())
    return bool(recorded)


def macro_rows(evidence: Evidence, file: str) -> dict | None:
    """A long table without its rows of single findings, unless they stand out after correction (p_holm below 0.05)."""
    table = evidence.table(file)
    if table is None or "finding" not in table:
        return evidence.listing(file)
    keep = table["finding"] == "macro"
    if "p_holm" in table:
        keep |= table["p_holm"] < 0.05
    return evidence.listing(file, rows=list(table.index[keep]))
