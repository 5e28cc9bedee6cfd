"""Kernel sets: which instruction sets this build has, which can run here, and how to pick one."""

from __future__ import annotations

import os
from functools import cache

from lanewise import _native
from lanewise._native import Kernels

__all__ = ["Kernels", "available", "built", "get"]

_ENVIRONMENT = "LANEWISE_ISA"


def built() -> list[str]:
    """Names of the kernel sets in this build, best first.

    Examples
    --------
    >>> "scalar" in built()
    True
    """
    return [name for name, _ in _native.kernel_names()]


def available() -> list[str]:
    """Names of the kernel sets that this CPU and operating system can run, best first.

    Examples
    --------
    >>> available()[-1]
    'scalar'
    """
    return [name for name, runnable in _native.kernel_names() if runnable]


def get(name: str | Kernels | None = None) -> Kernels:
    """Return a kernel set.

    Parameters
    ----------
    name : str or Kernels, optional
        One of `built`, such as ``"avx512vnni"``, ``"neon"`` or ``"scalar"``; a kernel set is
        returned as it is.
        By default the environment variable ``LANEWISE_ISA`` decides, and without it the best
        set that can run.

    Returns
    -------
    Kernels
        All sets give the same bits; they differ in speed only.

    Raises
    ------
    ValueError
        If the set is unknown, not in this build, or cannot run here.

    Examples
    --------
    >>> get("scalar").name
    'scalar'
    """
    if isinstance(name, Kernels):
        return name
    if name is None:
        asked = os.environ.get(_ENVIRONMENT, "").strip()
        if not asked:
            return _load(available()[0])
        return _checked(asked, _ENVIRONMENT)
    if not isinstance(name, str):
        raise TypeError(f"kernels: expected a name or a kernel set, got {type(name).__name__}")
    return _checked(name, "kernels")


def _checked(name: str, source: str) -> Kernels:
    if name not in available():
        reason = "cannot run on this machine" if name in built() else "is not in this build"
        raise ValueError(f"{source}: {name!r} {reason}; available: {', '.join(available())}")
    return _load(name)


@cache
def _load(name: str) -> Kernels:
    return _native.kernels_by_name(name)
