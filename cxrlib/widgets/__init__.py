"""What a person moves: the explorers of thresholds and of heat maps."""
