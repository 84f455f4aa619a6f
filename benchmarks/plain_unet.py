"""What both benchmarks of speed are compared with: MONAI's plain U-Net at full resolution, of nearly as many parameters."""

from __future__ import annotations

from monai.networks.nets import BasicUNet

__all__ = ["plain_unet"]

_WIDTHS = (16, 32, 64, 128, 256, 16)


def plain_unet() -> BasicUNet:
    """1.95 million parameters."""
    return BasicUNet(2, 1, 1, features=_WIDTHS)
