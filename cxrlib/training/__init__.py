"""From a configuration to scores: losses, training, resume, linear probe, inference, comparison."""
