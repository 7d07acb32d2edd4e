"""The explorers of notebooks 05 and 06."""

from cxrlib.threshold_explorer import ThresholdExplorer

__all__ = ["ThresholdExplorer"]
