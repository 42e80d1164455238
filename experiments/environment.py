"""What a run ran on, for environment.json."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any


def environment() -> Mapping[str, Any]:
    """What the run ran on, for environment.json: versions and machine, no user name, no path."""
    packages = ("carpool", "flwr", "torch", "numpy", "pydantic", "safetensors", "pillow", "msgpack")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: version(name) for name in packages},
    }
