"""The patients of a phantom data set: visits with true and mined labels, sampled from NIH's metadata, and anatomy."""

from pathlib import Path
from types import SimpleNamespace

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
    visits["patient"] = who + FIRST_PATIENT + 100_000 * second  # not in place: before pandas 3, `who` would change
    patients = rng.beta(1.7, 1.4, (config.n_patients, len(FINDINGS)))
    strength = np.clip(patients[who] + rng.normal(0, 0.10, truth.shape), 0.02, 1)
    mined, drain = _mine(rng, who, truth, strength, visits["view"].eq("AP").to_numpy(), config.label_noise)
    visits["image"] = [f"{p:08d}_{k:03d}.png" for p, k in zip(visits["patient"], visits["follow_up"], strict=True)]
    carries = pd.DataFrame(truth | mined).groupby(who).any().to_numpy()
    test, placed = np.zeros((2, len(carries)), dtype=bool)
    rarest = np.argsort(carries.sum(axis=0), kind="stable")
    for group in [*carries.T[rarest], np.ones(len(carries), dtype=bool)]:  # a fifth of each finding, the rarest first
        free = rng.permutation(np.flatnonzero(group & ~placed))
        lacking = round(0.2 * group.sum()) - (group & test).sum()
        test[free[: max(lacking, 0)]] = True
        placed[free] = True
    visits["test"] = test[who]
    return visits.assign(truth=list(truth), mined=list(mined), strength=list(strength), drain=drain)


def _histories(rng, config):
    """Visits of patients 0 .. n - 1, and the true findings: (visits, 14) bool."""
    teaching = config.prevalence == "teaching"
    entries = reference_entries().sort_values(["patient", "image"], kind="stable")
    if teaching:
        entries = entries[entries.groupby("patient").cumcount() < _MOST_VISITS]
    labels, patients = entries[list(FINDINGS)].to_numpy(bool), entries.groupby("patient")
    counts, carries = patients.size().to_numpy(), patients[list(FINDINGS)].any().to_numpy()
    weights = np.ones(len(counts))
    for _ in range(200 if teaching else 0):  # raking: enough have each finding, and the mean number of visits is right
        for column in carries.T:
            share = weights[column].sum() / weights.sum()
            if share < _CARRIERS:
                weights[column] *= _CARRIERS / share * (1 - share) / (1 - _CARRIERS)
        excess = np.average(counts, weights=weights) / _VISITS
        weights *= np.exp(-0.5 * (excess - 1) * np.log(counts))
    if config.hospital == "second":
        weights *= np.where(carries, TRAITS["second"], 1).prod(axis=1)
    # a systematic sample, in the order of the number of visits, so that the total of visits hardly varies
    order = rng.permutation(len(weights))
    order = order[np.argsort(counts[order], kind="stable")]
    share = np.cumsum(weights[order])
    points = (np.arange(config.n_patients) + rng.random()) / config.n_patients * share[-1]
    chosen = rng.permutation(order[np.minimum(np.searchsorted(share, points, side="right"), len(order) - 1)])
    each = np.split(np.arange(len(entries)), np.cumsum(counts)[:-1])
    columns = ["age", "sex", "view", "width", "height", "spacing_x", "spacing_y"]
    visits = entries[columns].iloc[np.concatenate([each[i] for i in chosen])].reset_index(drop=True)
    visits["patient"] = np.repeat(np.arange(len(chosen)), counts[chosen])
    visits["follow_up"] = visits.groupby("patient").cumcount()
    return visits, np.concatenate([_episodes(labels[each[i]]) for i in chosen])


def _episodes(labels):
    """One patient's labels (visits, 14), with the visits of each finding made consecutive; their number is kept."""
    true = np.zeros_like(labels)
    for finding in np.flatnonzero(labels.any(axis=0)):
        at = np.flatnonzero(labels[:, finding])
        first = int(np.clip(round(at.mean() - (len(at) - 1) / 2), 0, len(labels) - len(at)))
        true[first : first + len(at), finding] = True
    return true


def _mine(rng, who, truth, strength, bedside, noise):
    """Mined labels (n, 14) bool, and the side of a chest drain or -1 for each visit; data/README.md has the rules."""
    n_patients = who.max() + 1
    copied = rng.random((2, n_patients, len(FINDINGS)))[:, who]
    fresh = rng.random((2, *truth.shape))
    chance = np.where(rng.random((n_patients, len(FINDINGS)))[who] < 0.95, copied, fresh)
    had_drain = (rng.random(n_patients) < 0.08)[who] & (rng.random(len(who)) < 0.8)
    air = FINDINGS.index("Pneumothorax")
    drained = had_drain | (truth[:, air] & (chance[0, :, air] < 0.35))
    drain = np.where(drained, rng.integers(0, 2, n_patients)[who], -1)
    mined = truth.copy()
    for column, (finding, traits) in enumerate(TRAITS.iterrows() if noise else ()):
        true = truth[:, column]
        error = _DISAGREEMENT * (1 - traits["kappa"])
        miss = true * np.square(1.15 - strength[:, column])
        alike = truth[:, encode([traits["confused_with"]])[0] == 1].any(axis=1)
        hazy = finding in ("Edema", "Infiltration", "Atelectasis", "Effusion")
        alarm = ~true * (1 + 12.0 * alike + 2.0 * bedside * hazy)
        if finding == "Pneumothorax":
            alarm *= np.where(drained, 8.0, 0.3)
        for kind, tendency in enumerate((miss, alarm)):  # as many false positives as misses
            scale = error * true.sum() / max(tendency.sum(), 1e-9)
            mined[:, column] ^= chance[kind, :, column] < np.minimum(scale * tendency, 0.95)
    return mined, drain


def draw_patient(rng, age, sex):
    """A random anatomy, which stays over the visits, for an age in years and a sex, "M" or "F"; lengths in cm."""
    male = sex == "M"
    grown = float(np.clip(0.45 + age / 34, 0.55, 1.0))  # children are small
    normal = rng.normal
    fat = float(np.clip(rng.gamma(3.0, 0.75), 0.5, 6.0))
    return SimpleNamespace(
        half_width=grown * normal(14.2 if male else 12.8, 0.75),  # of the rib cage, inside
        height=grown * normal(23.5 if male else 21.5, 1.5),  # of the lungs, apex to dome, at full inspiration
        depth=grown * normal(18.5 if male else 17.0, 1.2) + 1.1 * fat,  # of the trunk, front to back
        fat=grown * (0.8 + fat),  # between rib cage and skin
        neck=grown * normal(6.2 if male else 5.2, 0.5),  # half width
        shoulder=normal(2.2, 1.3),  # height of the shoulders above the apices
        apex=normal(2.45, 0.25),  # exponent: how pointed the lungs are
        heart=grown * normal(1.0, 0.07),  # scale
        tilt=normal(0.65, 0.16),  # of the heart's axis, radians
        knob=grown * (1.35 + 0.012 * age + normal(0, 0.2)),  # radius of the aortic arch
        unfolding=max(0.0, normal(0.012 * max(age - 35, 0), 0.25)),  # of the aorta with age
        mediastinum=grown * (normal(2.5, 0.3) + 0.1 * fat),  # half width of its upper part
        scoliosis=(abs(normal(0, 0.7)), rng.uniform(0, 6.3)),  # amplitude, phase
        domes=(normal(0.7, 0.5), normal(-0.6, 0.5)),  # height of the right and the left one above their mean
        dome_curve=normal(1.0, 0.2),
        breast=0.0 if male else float(np.clip(rng.gamma(4.0, 0.45), 0.3, 4.0)) * (age > 13),
        breast_place=(normal(8.8, 0.7), normal(19.0, 1.5), normal(6.3, 0.6)),
        bubble=(normal(6.0, 1.2), min(rng.gamma(3, 0.8), 5.0), rng.uniform(0.35, 0.9)),  # gastric: x, radius, flatness
        rib_shift=rng.uniform(-0.8, 0.8),
        rib_spacing=normal(2.42, 0.13),
        rib_drop=float(np.clip(normal(0.036, 0.009), 0.015, 0.06)),
        rib_widths=rng.normal(1.0, 0.12, (2, 12)),
        bone=float(np.clip(normal(1.08 - 0.004 * age, 0.14), 0.5, 1.4)),  # mineral content
        clavicle=(normal(3.0, 0.8), normal(0.22, 0.09), normal(0.6, 0.25), normal(0.55, 0.06)),
        arms=normal(0.0, 1.0),
        hardware=str(rng.choice(["", "wires", "pacemaker", "port", "clips"], p=[0.84, 0.05, 0.04, 0.04, 0.03])),
        # calcified granulomas: side, place along and across the lung, radius
        marks=[(rng.integers(2), *rng.uniform((0.15, 0.3, 0.15), (0.9, 0.9, 0.35))) for _ in range(rng.poisson(0.7))],
        vessels=[_vessel_tree(rng, side) for side in (0, 1)],
        texture=rng.integers(2**31),  # seed of the parenchyma's texture
    )


def _vessel_tree(rng, side):
    """Segments (n, 5) of vessels that fork from the hilum outwards: start and end in lung coordinates, width in cm."""
    angles = np.linspace(-1.35, 1.45, 8) + rng.normal(0, 0.1, 8)
    start = np.column_stack([np.full(8, 0.24), 0.47 - 0.04 * side + 0.12 * np.sin(angles)])
    width = rng.uniform(0.45, 0.75, 8)
    length = rng.uniform(0.15, 0.24, 8)
    segments = []
    for _ in range(5):
        step = np.column_stack([np.cos(angles), 1.05 * np.sin(angles)]) * length[:, None]
        middle = start + step / 2 + rng.normal(0, 0.012, start.shape)
        end = start + step
        segments += [np.column_stack([start, middle, width]), np.column_stack([middle, end, width * 0.9])]
        fork = rng.normal(0.36, 0.14, len(angles))
        angles = np.concatenate([angles + fork, angles - fork * rng.uniform(0.3, 1.0, len(fork))])
        start = np.concatenate([end, end])
        width = np.concatenate([width * 0.68, width * 0.74]) * rng.uniform(0.85, 1.1, len(angles))
        length = np.concatenate([length * 0.78, length * 0.86]) * rng.uniform(0.75, 1.2, len(angles))
    return np.concatenate(segments).astype(np.float32)


def draw_exposure(rng, patient, view):
    """The random conditions of one exposure, some of which the findings change; AP is the bedside's, PA upright."""
    portable = view == "AP"
    normal, spread = rng.normal, 2.0 if portable else 1.0
    width = 2.72 * patient.half_width + normal(1.4, 1.2) + 0.35 * patient.fat
    return SimpleNamespace(
        view=view,
        field=(width, width * normal(0.99, 0.045)),  # width and height of the film, cm
        origin=(normal(0, 0.6 * spread), patient.height * 0.5 + normal(3.0, spread)),  # centre of the film, cm
        angle=float(np.deg2rad(normal(0, 1.3 * spread))),
        breath=float(np.clip(normal(0.88 if portable else 0.99, 0.05), 0.66, 1.08)),  # relative to full inspiration
        turn=normal(0, 0.55 * spread),  # shift of the mediastinum by axial rotation, cm
        heart_scale=(normal(1.13 if portable else 1.0, 0.025), normal(1.0, 0.02)),  # relative width and height
        shift=0.0,  # of the mediastinum by a finding, cm
        domes=[0.0, 0.0],  # elevation of the right and the left dome, cm
        flatten=1.0,  # curvature of the domes, relative
        inflate=0.0,  # additional height of the lungs, cm
        density=1.0,  # of the lung, relative
        pruning=0.0,  # share of the small vessels lost
        engorged=1.0,  # width of the vessels, relative
    )
