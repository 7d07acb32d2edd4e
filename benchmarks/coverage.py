"""How often the 95 % intervals of `evaluate` contain the truth, by simulation: the table in docs/intervals.md.

    python benchmarks/coverage.py [--data_sets 700] [--replicates 400]

Patients have 1, 1 to 5, or up to 20 images, which share part of their scores. The truth of sensitivity, specificity and
AUROC is set; that of PPV and F1 follows from it and the prevalence.
"""

import argparse

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm
from tqdm import tqdm

from cxrlib.data.findings import FINDINGS
from cxrlib.evaluation.metrics import evaluate
from cxrlib.evaluation.predictions import Predictions

TRUTHS = (0.02, 0.05, 0.5, 0.95, 0.98)
POSITIVE_PATIENTS = (10, 16, 33, 100)
NEGATIVE_PATIENTS = 300
SPECIFICITY = 0.9
CLUSTERS = {"one image per patient": 0.0, "1 to 5 images": 0.5, "1 to 20 images": 0.8}  # variance shared by a patient


def images_of(rng: np.random.Generator, patients: int, cluster: str) -> np.ndarray:
    """The patient of each image."""
    if cluster == "one image per patient":
        return np.arange(patients)
    if cluster == "1 to 5 images":
        return np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    return np.repeat(np.arange(patients), np.minimum(rng.geometric(0.25, patients), 20))


def data_set(rng, truth: float, positives: int, cluster: str, metric: str) -> Predictions:
    """Fourteen findings with the same truth; sensitivity at threshold 0.5 (or AUROC) is `truth`."""
    patient = images_of(rng, positives + NEGATIVE_PATIENTS, cluster)
    labels = np.repeat((patient < positives)[:, None], len(FINDINGS), axis=1)
    shared = CLUSTERS[cluster]
    noise = np.sqrt(shared) * rng.normal(size=(patient.max() + 1, len(FINDINGS)))[patient]
    noise += np.sqrt(1 - shared) * rng.normal(size=labels.shape)
    if metric == "auroc":
        scores = norm.cdf(noise + np.sqrt(2) * ndtri(truth) * labels - 1)
    else:
        scores = norm.cdf(noise + np.where(labels, ndtri(truth), -ndtri(SPECIFICITY)))
    return Predictions(scores, labels.astype(int), np.arange(len(patient)).astype(str), patient)


def coverage(metric: str, truth: float, positives: int, cluster: str, data_sets: int, replicates: int) -> float:
    """The share of intervals that contain the truth; fourteen per data set."""
    rng = np.random.default_rng([positives, int(1000 * truth), len(cluster)])
    inside = []
    for seed in range(-(-data_sets // len(FINDINGS))):
        predictions = data_set(rng, truth, positives, cluster, metric)
        thresholds = None if metric == "auroc" else [0.5] * len(FINDINGS)
        table = evaluate(predictions, thresholds, replicates, seed).iloc[:-1]
        value = truth
        if metric in ("ppv", "f1"):  # on average; the images of a patient do not depend on the finding
            tp, fp = truth * positives, (1 - SPECIFICITY) * NEGATIVE_PATIENTS
            value = tp / (tp + fp) if metric == "ppv" else 2 * tp / (tp + fp + positives)
        inside.append((table[f"{metric}_low"] <= value) & (value <= table[f"{metric}_high"]))
    return float(np.mean(inside))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_sets", type=int, default=700, help="simulated findings per cell")
    parser.add_argument("--replicates", type=int, default=400, help="bootstrap replicates")
    parser.add_argument("--metrics", nargs="+", default=["sensitivity", "auroc", "f1", "ppv"])
    args = parser.parse_args()
    for metric in args.metrics:
        truths = [truth for truth in TRUTHS if truth >= 0.5 or metric != "auroc"]
        for cluster in CLUSTERS:
            print(
                f"\n{metric}, {cluster}\n\n| truth | " + " | ".join(f"{n} patients" for n in POSITIVE_PATIENTS) + " |"
            )
            print("|---|" + "---|" * len(POSITIVE_PATIENTS))
            for truth in tqdm(truths, leave=False):
                cells = [coverage(metric, truth, n, cluster, args.data_sets, args.replicates)
                         for n in POSITIVE_PATIENTS]  # fmt: skip
                print(f"| {truth} | " + " | ".join(f"{100 * cell:.0f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
