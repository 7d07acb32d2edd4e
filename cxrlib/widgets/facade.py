"""The explorers of notebooks 05 and 06."""

from cxrlib.widgets.cam_explorer import CamExplorer
from cxrlib.widgets.threshold_explorer import ThresholdExplorer

__all__ = ["CamExplorer", "ThresholdExplorer"]
