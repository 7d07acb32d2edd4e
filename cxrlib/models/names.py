"""The names of the architectures and the image sizes that fit them; nothing here loads torch."""

from cxrlib.core.errors import InputError, nearest

ARCHS = ("efficientnet_b0", "densenet121", "resnet18", "vgg16", "mobilenet_v2", "vit_b_16", "efficientnet_lite0")
SUFFIXES = (".pth", ".pt")  # of a checkpoint
SMALLEST = 32  # pixels per side
PATCH = 16  # pixels per side of the patches of a vision transformer


def check_image_size(arch: str, image_size: int) -> None:
    """Raise InputError for an unknown architecture, or an image size (pixels per side) that does not fit it."""
    if arch not in ARCHS:
        raise InputError(f"unknown architecture {arch!r}; expected one of {', '.join(ARCHS)}{nearest(arch, ARCHS)}")
    of_patches = arch == "vit_b_16"
    if image_size < SMALLEST or (of_patches and image_size % PATCH):
        multiple = f" and a multiple of {PATCH}" if of_patches else ""
        raise InputError(f"image_size {image_size} does not fit {arch}; expected at least {SMALLEST}{multiple}")
