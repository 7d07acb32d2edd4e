"""From a configuration to scores: losses, one run, resume, the linear probe, inference, a comparison."""
