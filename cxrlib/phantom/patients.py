"""Who comes to be drawn, how often and with what: patients from NIH's metadata, the truth, and the mined labels.

Only the metadata is read (`metadata.reference_entries`); no image and no network.
"""

import numpy as np

from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import reference_entries

PREVALENCES = ("teaching", "nih")
FIRST_PATIENT = 90001  # beyond NIH's last, 30805: no phantom carries the name of a real image
_CARRIERS = 0.11  # teaching: at least this share of the patients has each finding at some visit
_VISITS = 3.2  # teaching: mean number of visits, and
_MOST_VISITS = 20  # the most; NIH's mean is 3.6 with up to 184
_TEST_SHARE = 0.2

# Cohen's kappa of NIH's mined labels against three radiologists' majority on 810 test images (Nabulsi et al. 2021).
_NIH_KAPPA = dict(
    zip(FINDINGS, (0.18, 0.34, 0.13, 0.0, 0.34, 0.04, 0.05, 0.07, 0.36, 0.29, 0.17, 0.0, 0.54, 0.44), strict=True)
)
_DISAGREEMENT = 0.35  # share of NIH's disagreement that the phantoms have: part of NIH's lies between the readers
_CONFUSED = {  # a wrong mined label is likelier where a look-alike is on the film
    "Atelectasis": ("Effusion", "Infiltration"),
    "Cardiomegaly": ("Edema", "Effusion"),
    "Consolidation": ("Pneumonia", "Infiltration", "Atelectasis"),
    "Edema": ("Cardiomegaly", "Infiltration", "Effusion"),
    "Effusion": ("Pleural_Thickening", "Atelectasis"),
    "Emphysema": ("Pneumothorax",),
    "Fibrosis": ("Infiltration", "Pleural_Thickening"),
    "Infiltration": ("Pneumonia", "Consolidation", "Edema", "Fibrosis"),
    "Mass": ("Nodule", "Consolidation"),
    "Nodule": ("Mass",),
    "Pleural_Thickening": ("Effusion", "Fibrosis"),
    "Pneumonia": ("Infiltration", "Consolidation"),
    "Pneumothorax": ("Emphysema",),
    "Hernia": ("Cardiomegaly",),
}


def plan_visits(n_patients, seed, prevalence, label_noise):
    """A DataFrame with one row a visit: image, patient, follow_up, age, sex, view, the film's size, test (bool).

    Its columns truth, mined (bool) and strength (0..1) hold arrays of 14 values in the order of FINDINGS; drain is the
    side of a chest tube (0 right, 1 left) or -1.
    """
    rng = np.random.default_rng([seed, 1])
    visits, truth = _histories(rng, n_patients, prevalence)
    who = visits["patient"].to_numpy() - FIRST_PATIENT
    strength = _strengths(rng, who)
    mined, drain = _mine(rng, who, truth, strength, visits["view"].eq("AP").to_numpy(), label_noise)
    visits["image"] = [f"{p:08d}_{k:03d}.png" for p, k in zip(visits["patient"], visits["follow_up"], strict=True)]
    visits["test"] = _test_patients(rng, who, truth | mined)[who]
    visits["truth"], visits["mined"], visits["strength"], visits["drain"] = (
        list(truth),
        list(mined),
        list(strength),
        drain,
    )
    visits["seed"] = seed
    return visits


def _histories(rng, n_patients, prevalence):
    """Visits of patients drawn from NIH's metadata, and which findings are truly there: (n, 14) bool."""
    entries = reference_entries().sort_values(["patient", "image"], kind="stable").reset_index(drop=True)
    if prevalence == "teaching":
        entries = entries[entries.groupby("patient").cumcount() < _MOST_VISITS].reset_index(drop=True)
    labels = entries[list(FINDINGS)].to_numpy(bool)
    starts = np.flatnonzero(~entries["patient"].duplicated().to_numpy())
    counts = np.diff(np.append(starts, len(entries)))
    carries = np.logical_or.reduceat(labels, starts)
    weights = _lifted(carries, counts) if prevalence == "teaching" else np.ones(len(starts))
    chosen = _systematic(rng, weights, counts, n_patients)
    rows = np.concatenate([np.arange(starts[i], starts[i] + counts[i]) for i in chosen])
    visits = entries.loc[rows, ["age", "sex", "view", "width", "height", "spacing_x", "spacing_y"]].reset_index(
        drop=True
    )
    visits["patient"] = FIRST_PATIENT + np.repeat(np.arange(n_patients), counts[chosen])
    visits["follow_up"] = visits.groupby("patient").cumcount()
    truth = np.concatenate([_episodes(labels[starts[i] : starts[i] + counts[i]]) for i in chosen])
    return visits, truth


def _lifted(carries, counts):
    """Weights of the patients under which every finding has its share of carriers and the mean of visits holds.

    Raking: the carriers of a finding that is too rare are weighted up, and all their company, until all shares hold.
    """
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
    """n patients drawn with these weights, evenly over the number of visits, so that the total hardly varies."""
    order = rng.permutation(len(weights))
    order = order[np.argsort(counts[order], kind="stable")]
    share = np.cumsum(weights[order])
    points = (np.arange(n) + rng.random()) / n * share[-1]
    return rng.permutation(order[np.minimum(np.searchsorted(share, points, side="right"), len(order) - 1)])


def _episodes(labels):
    """One patient's labels, each finding's visits moved together: a finding comes, stays and goes. Counts are kept."""
    true = np.zeros_like(labels)
    for finding in np.flatnonzero(labels.any(axis=0)):
        at = np.flatnonzero(labels[:, finding])
        first = int(np.clip(round(at.mean() - (len(at) - 1) / 2), 0, len(labels) - len(at)))
        true[first : first + len(at), finding] = True
    return true


def _strengths(rng, who):
    """How plain each finding would be: (n, 14) in 0..1, most of it the patient's, some of it the visit's."""
    patients = rng.beta(1.7, 1.4, (who.max() + 1, len(FINDINGS)))
    return np.clip(patients[who] + rng.normal(0, 0.10, (len(who), len(FINDINGS))), 0.02, 1)


def _mine(rng, who, truth, strength, bedside, noise):
    """Mined labels (n, 14) bool, and the side of a chest drain or -1 for each visit.

    The subtle is missed more often than the plain; a wrong label falls where a look-alike is, or, for the pneumothorax,
    where a drain is (Oakden-Rayner 2017). Reports copy from their predecessor: most errors stay with the patient.
    """
    n_patients = who.max() + 1
    copied = rng.random((2, n_patients, len(FINDINGS)))[:, who]
    fresh = rng.random((2, *truth.shape))
    chance = np.where(rng.random((n_patients, len(FINDINGS)))[who] < 0.95, copied, fresh)
    had_drain = (rng.random(n_patients) < 0.08)[who] & (rng.random(len(who)) < 0.8)
    pneumothorax = FINDINGS.index("Pneumothorax")
    drained = had_drain | (truth[:, pneumothorax] & (chance[0, :, pneumothorax] < 0.35))
    drain = np.where(drained, rng.integers(0, 2, n_patients)[who], -1)
    mined = truth.copy()
    if not noise:
        return mined, drain
    for column, finding in enumerate(FINDINGS):
        true = truth[:, column]
        error = _DISAGREEMENT * (1 - _NIH_KAPPA[finding])
        miss = true * np.square(1.15 - strength[:, column])
        alike = truth[:, [FINDINGS.index(name) for name in _CONFUSED[finding]]].any(axis=1)
        alarm = ~true * (
            1 + 12.0 * alike + 2.0 * bedside * (finding in ("Edema", "Infiltration", "Atelectasis", "Effusion"))
        )
        alarm = alarm * np.where(drained, 8.0, 0.3) if finding == "Pneumothorax" else alarm
        wrong = np.zeros(len(true), dtype=bool)
        for kind, tendency in enumerate((miss, alarm)):  # as many false labels as missed ones: the prevalence stays
            scale = error * true.sum() / max(tendency.sum(), 1e-9)
            wrong |= chance[kind, :, column] < np.minimum(scale * tendency, 0.95)
        mined[:, column] ^= wrong
    return mined, drain


def _test_patients(rng, who, labels):
    """The patients of the test part, (patients,) bool: a fifth of the carriers of every finding, the rarest first."""
    n_patients = who.max() + 1
    carries = np.zeros((n_patients, len(FINDINGS)), dtype=bool)
    np.logical_or.at(carries, who, labels)
    test, placed = np.zeros(n_patients, dtype=bool), np.zeros(n_patients, dtype=bool)
    groups = [carries[:, column] for column in np.argsort(carries.sum(axis=0), kind="stable")]
    for group in [*groups, np.ones(n_patients, dtype=bool)]:
        free = rng.permutation(np.flatnonzero(group & ~placed))
        lacking = round(_TEST_SHARE * group.sum()) - (group & test).sum()
        test[free[: max(lacking, 0)]] = True
        placed[free] = True
    return test
