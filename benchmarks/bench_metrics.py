"""Speed of the evaluation at the size of the official test part: 25,596 images, 2,797 patients, 14 findings.

    python -m benchmarks.bench_metrics

prints one line a figure. A ratio at or above its goal is reached.
"""

import numpy as np
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score

from benchmarks.timing import fastest
from cxrlib.evaluation.bootstrap import Bootstrap, draw_patients
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions
from cxrlib.evaluation.thresholds import tune_thresholds

IMAGES, PATIENTS, REPLICATES = 25_596, 2_797, 1_000
# positives of the official test part, in the order of FINDINGS, counted from Data_Entry_2017_v2020.csv
POSITIVES = (3279, 1069, 1815, 925, 4658, 1093, 435, 6112, 1748, 1623, 1143, 555, 2665, 86)
LOOP_REPLICATES = 10  # of scikit-learn's loop, scaled up to REPLICATES


def official_size(seed: int = 0) -> Predictions:
    """Predictions as large as those on the official test part, with an AUROC about 0.8."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((IMAGES, len(POSITIVES)), dtype=np.uint8)
    for j, positives in enumerate(POSITIVES):
        labels[rng.choice(IMAGES, positives, replace=False), j] = 1
    scores = ndtr(rng.normal(size=labels.shape) + 1.2 * labels - 1.5)
    patient = np.sort(rng.integers(0, PATIENTS, IMAGES))
    return Predictions(scores, labels, [f"{i:08d}.png" for i in range(IMAGES)], patient)


def loop_over_scikit_learn(predictions: Predictions, replicates: int) -> np.ndarray:
    """The plain way to the AUROC replicates alone: write out the drawn images, ask scikit-learn finding by finding."""
    patients, patient = np.unique(predictions.patient, return_inverse=True)
    times = draw_patients(len(patients), replicates, seed=0)
    auroc = np.empty((replicates, len(POSITIVES)))
    for r, drawn in enumerate(times):
        rows = np.repeat(np.arange(len(predictions)), drawn[patient])
        labels, scores = predictions.labels[rows], predictions.scores[rows]
        auroc[r] = [roc_auc_score(labels[:, j], scores[:, j]) for j in range(len(POSITIVES))]
    return auroc


def benchmark() -> dict[str, dict]:
    """Rows {name: {"ratio", "goal", "detail"}}."""
    predictions = official_size()
    thresholds = np.full(len(POSITIVES), 0.2)
    whole = fastest(lambda: evaluate(predictions, thresholds, REPLICATES), times=2)
    loop = fastest(lambda: loop_over_scikit_learn(predictions, LOOP_REPLICATES), times=1) * REPLICATES / LOOP_REPLICATES
    exact = fastest(lambda: tune_thresholds(predictions, grid=None, resampling=Bootstrap(0)), times=5)
    size = f"{IMAGES:,} images x {len(POSITIVES)} findings"
    return {
        "bootstrap against scikit-learn": {
            "ratio": loop / whole,
            "goal": 20,
            "detail": f"all metrics {whole:.2f} s; a loop over roc_auc_score alone {loop:.0f} s "
            f"({LOOP_REPLICATES} replicates, scaled); {size} x {REPLICATES:,} replicates",
        },
        "bootstrap within 10 s": {
            "ratio": 10 / whole,
            "goal": 1,
            "detail": f"all metrics with {REPLICATES:,} replicates of patients in {whole:.2f} s; {size}",
        },
        "exact thresholds within 0.1 s": {
            "ratio": 0.1 / exact,
            "goal": 1,
            "detail": f"the best F1 over all score values in {exact:.3f} s; {size}",
        },
    }


def main() -> None:
    for name, row in benchmark().items():
        print(f"{name}: {row['ratio']:.1f} (goal {row['goal']}); {row['detail']}")


if __name__ == "__main__":
    main()
