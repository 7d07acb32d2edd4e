"""The patients and visits of a phantom data set, sampled from NIH's metadata, with true and mined labels."""

from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.findings import FINDINGS, encode
from cxrlib.data.metadata import reference_entries

FIRST_PATIENT = 90001  # NIH's last is 30805: no phantom has the name of a real image
_CARRIERS = 0.11  # teaching: at least this share of the patients has each finding at some visit
_VISITS, _MOST_VISITS = 2.4, 10  # teaching: mean and maximum number of visits per patient; NIH has 3.6 and 184
_DISAGREEMENT = 0.35  # relative to NIH's, part of which is disagreement between the readers
# kappa: Cohen's, of NIH's mined labels against three radiologists' majority on 810 test images (Nabulsi et al. 2021);
# confused_with: findings beside which false positive labels are likelier; second: how much likelier a patient with the
# finding is to be of the second hospital than of the first; boxed: whether NIH boxed it
TRAITS = pd.read_csv(Path(__file__).with_name("findings.csv"), index_col="finding").loc[list(FINDINGS)]


def plan_visits(config):
    """A DataFrame with one row per visit of the patients that a `PhantomConfig` describes.

    Columns: those of Data_Entry_2017.csv; test (bool); truth, mined (bool) and strength (0 to 1), arrays of 14 values
    in the order of FINDINGS; and drain, the side of a chest tube (0 right, 1 left) or -1.
    """
    second = config.hospital == "second"
    rng = np.random.default_rng([config.seed, 1, 1] if second else [config.seed, 1])
    visits, truth = _histories(rng, config)
    who = visits["patient"].to_numpy()
    visits["patient"] += FIRST_PATIENT + 100_000 * second
    patients = rng.beta(1.7, 1.4, (config.n_patients, len(FINDINGS)))
    strength = np.clip(patients[who] + rng.normal(0, 0.10, truth.shape), 0.02, 1)
    mined, drain = _mine(rng, who, truth, strength, visits["view"].eq("AP").to_numpy(), config.label_noise)
    visits["image"] = [f"{p:08d}_{k:03d}.png" for p, k in zip(visits["patient"], visits["follow_up"], strict=True)]
    visits["test"] = _test_patients(rng, who, truth | mined)[who]
    return visits.assign(truth=list(truth), mined=list(mined), strength=list(strength), drain=drain)


def _histories(rng, config):
    """Visits of patients 0 .. n - 1, sampled from NIH's metadata, and the true findings: (n, 14) bool."""
    teaching = config.prevalence == "teaching"
    entries = reference_entries().sort_values(["patient", "image"], kind="stable")
    if teaching:
        entries = entries[entries.groupby("patient").cumcount() < _MOST_VISITS]
    labels, patients = entries[list(FINDINGS)].to_numpy(bool), entries.groupby("patient")
    counts, carries = patients.size().to_numpy(), patients[list(FINDINGS)].any().to_numpy()
    weights = _lifted(carries, counts) if teaching else np.ones(len(counts))
    if config.hospital == "second":
        weights = weights * np.where(carries, TRAITS["second"], 1).prod(axis=1)
    chosen = _systematic(rng, weights, counts, config.n_patients)
    each = np.split(np.arange(len(entries)), np.cumsum(counts)[:-1])
    columns = ["age", "sex", "view", "width", "height", "spacing_x", "spacing_y"]
    visits = entries[columns].iloc[np.concatenate([each[i] for i in chosen])].reset_index(drop=True)
    visits["patient"] = np.repeat(np.arange(len(chosen)), counts[chosen])
    visits["follow_up"] = visits.groupby("patient").cumcount()
    return visits, np.concatenate([_episodes(labels[each[i]]) for i in chosen])


def _lifted(carries, counts):
    """Weights of the patients so that enough have each finding and the mean number of visits is right, by raking."""
    weights = np.ones(len(counts))
    for _ in range(200):
        for column in carries.T:
            share = weights[column].sum() / weights.sum()
            if share < _CARRIERS:
                weights[column] *= _CARRIERS / share * (1 - share) / (1 - _CARRIERS)
        excess = np.average(counts, weights=weights) / _VISITS
        weights *= np.exp(-0.5 * (excess - 1) * np.log(counts))
    return weights


def _systematic(rng, weights, counts, n):
    """Systematic sample of n patients, ordered by number of visits, so that the total of visits hardly varies."""
    order = rng.permutation(len(weights))
    order = order[np.argsort(counts[order], kind="stable")]
    share = np.cumsum(weights[order])
    points = (np.arange(n) + rng.random()) / n * share[-1]
    return rng.permutation(order[np.minimum(np.searchsorted(share, points, side="right"), len(order) - 1)])


def _episodes(labels):
    """One patient's labels (visits, 14), with the visits of each finding made consecutive; their number is kept."""
    true = np.zeros_like(labels)
    for finding in np.flatnonzero(labels.any(axis=0)):
        at = np.flatnonzero(labels[:, finding])
        first = int(np.clip(round(at.mean() - (len(at) - 1) / 2), 0, len(labels) - len(at)))
        true[first : first + len(at), finding] = True
    return true


def _mine(rng, who, truth, strength, bedside, noise):
    """Mined labels (n, 14) bool, and the side of a chest drain or -1 for each visit.

    Subtle findings are missed more often. False positives are likelier where a similar finding is present and, for
    pneumothorax, where there is a drain (Oakden-Rayner 2017). Most errors persist over the visits of a patient, as
    reports repeat earlier ones.
    """
    n_patients = who.max() + 1
    copied = rng.random((2, n_patients, len(FINDINGS)))[:, who]
    fresh = rng.random((2, *truth.shape))
    chance = np.where(rng.random((n_patients, len(FINDINGS)))[who] < 0.95, copied, fresh)
    had_drain = (rng.random(n_patients) < 0.08)[who] & (rng.random(len(who)) < 0.8)
    air = FINDINGS.index("Pneumothorax")
    drained = had_drain | (truth[:, air] & (chance[0, :, air] < 0.35))
    drain = np.where(drained, rng.integers(0, 2, n_patients)[who], -1)
    mined = truth.copy()
    if not noise:
        return mined, drain
    for column, (finding, traits) in enumerate(TRAITS.iterrows()):
        true = truth[:, column]
        error = _DISAGREEMENT * (1 - traits["kappa"])
        miss = true * np.square(1.15 - strength[:, column])
        alike = truth[:, encode([traits["confused_with"]])[0] == 1].any(axis=1)
        hazy = finding in ("Edema", "Infiltration", "Atelectasis", "Effusion")
        alarm = ~true * (1 + 12.0 * alike + 2.0 * bedside * hazy)
        if finding == "Pneumothorax":
            alarm *= np.where(drained, 8.0, 0.3)
        wrong = np.zeros(len(true), dtype=bool)
        for kind, tendency in enumerate((miss, alarm)):  # as many false positives as misses
            scale = error * true.sum() / max(tendency.sum(), 1e-9)
            wrong |= chance[kind, :, column] < np.minimum(scale * tendency, 0.95)
        mined[:, column] ^= wrong
    return mined, drain


def _test_patients(rng, who, labels):
    """The patients of the test split, (patients,) bool: a fifth of those with each finding, the rarest first."""
    carries = pd.DataFrame(labels).groupby(who).any().to_numpy()
    test, placed = np.zeros((2, len(carries)), dtype=bool)
    rarest = np.argsort(carries.sum(axis=0), kind="stable")
    for group in [*carries.T[rarest], np.ones(len(carries), dtype=bool)]:
        free = rng.permutation(np.flatnonzero(group & ~placed))
        lacking = round(0.2 * group.sum()) - (group & test).sum()
        test[free[: max(lacking, 0)]] = True
        placed[free] = True
    return test
