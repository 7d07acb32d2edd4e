"""Numbers with intervals from scores and labels: bootstrap, metrics, thresholds, calibration, audits; no torch."""
