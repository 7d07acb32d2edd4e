"""The explorers of notebooks 05 and 06."""

from cxrlib.cam_explorer import CamExplorer
from cxrlib.threshold_explorer import ThresholdExplorer

__all__ = ["CamExplorer", "ThresholdExplorer"]
