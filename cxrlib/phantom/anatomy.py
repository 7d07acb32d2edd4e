"""The random anatomy of a patient, and the random conditions of one exposure."""

from types import SimpleNamespace

import numpy as np


def draw_patient(rng, age, sex):
    """A random anatomy for an age in years and a sex, "M" or "F": what stays over the visits; lengths in cm."""
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
