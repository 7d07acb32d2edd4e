"""Interactive explorers of thresholds and of heat maps."""
