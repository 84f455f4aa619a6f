"""What a run ran on: versions, device, cores. No names of machines or users."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import slicewise

__all__ = ["describe_environment"]

_PACKAGES = ("torch", "monai", "lightning-fabric", "numpy", "scipy", "scikit-learn", "pandas", "nibabel", "pillow")


def describe_environment() -> dict[str, Any]:
    """Versions of slicewise, Python and the packages that decide results; device, cores and threads."""
    import torch

    on_gpu = torch.cuda.is_available()
    return {
        "slicewise": slicewise.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        **{name: metadata.version(name) for name in _PACKAGES},
    }
