"""What a run ran on: versions, device, cores. No names of machines or users."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import slicewise

__all__ = ["describe_environment", "describe_versions"]

_PACKAGES = (
    "torch",
    "monai",
    "lightning-fabric",
    "openvino",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "nibabel",
    "pydicom",
    "highdicom",
    "pillow",
)


def describe_versions() -> dict[str, Any]:
    """Versions of slicewise, Python and the packages that decide results, and the cores; loads none of them."""
    return {
        "slicewise": slicewise.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **{name: version for name in _PACKAGES if (version := _version(name))},
    }


def describe_environment() -> dict[str, Any]:
    """The same, with the device and the threads of torch."""
    import torch

    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    return {**describe_versions(), "threads": torch.get_num_threads(), "device": device}


def _version(package: str) -> str | None:
    """None where it is not installed: prediction does without some."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
