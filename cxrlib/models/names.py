"""The names of architectures and of methods for heat maps, and image sizes; nothing here loads torch."""

from cxrlib.core.errors import InputError

ARCHS = ("efficientnet_b0", "densenet121", "resnet18", "vgg16", "mobilenet_v2", "vit_b_16", "efficientnet_lite0")
METHODS = ("gradcam", "gradcam++", "layercam", "activation")  # of `explain.gradcam`
SUFFIXES = (".pth", ".pt")  # of a checkpoint
PATCH = 16  # pixels per side of the patches of a vision transformer


def check_image_size(arch: str, image_size: int) -> None:
    """Raise InputError for an unknown architecture, or an image size (pixels per side) that does not fit it."""
    if arch not in ARCHS:
        raise InputError(f"unknown architecture {arch!r}; expected one of {', '.join(ARCHS)}")
    step, multiple = (PATCH, f" and a multiple of {PATCH}") if arch == "vit_b_16" else (1, "")
    if image_size < 32 or image_size % step:
        raise InputError(f"image_size {image_size} does not fit {arch}; expected at least 32{multiple}")
