"""Heat maps, and how good they are: Grad-CAM, localization against boxes, faithfulness."""
