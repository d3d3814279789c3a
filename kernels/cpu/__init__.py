"""The CPU kernels: whether they are here, and what they offer.

The extension `kernels.cpu._ext` is compiled when Russet is installed, where a C++20 compiler is (see CMakeLists.txt).
Without it `available()` is False, `reason()` says why, and the callers of this package run on MLX operations instead.
"""

import importlib
from typing import Any

import mlx.core  # noqa: F401  the extension's arrays are MLX's: its types must be registered first

_ext: Any
try:
    _ext = importlib.import_module("kernels.cpu._ext")
except ImportError as error:
    _ext = None
    _reason = (
        f"the compiled CPU kernels cannot be loaded ({error}); install a C++20 compiler, then run `make clean` and "
        "`make up` again: on stock MLX operations a CPU is 20 to 100 times slower"
    )
else:
    _reason = ""


def available() -> bool:
    """Whether the compiled kernels can be used."""
    return _ext is not None


def reason() -> str:
    """Why they cannot, what it costs and what to do about it; empty where they can."""
    return _reason
