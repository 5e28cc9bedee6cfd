"""How many threads a call may use: affinity, container limits, and what the user asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from lanewise.arrays import check_int

__all__ = ["default_threads", "resolve_threads"]

_ENVIRONMENT = "LANEWISE_NUM_THREADS"

# More threads than any machine has would only exhaust the process.
_MOST = 4096


def resolve_threads(n_threads: int | None) -> int:
    """Return the number of threads for a call: `n_threads`, or by default all it may use.

    Parameters
    ----------
    n_threads : int, optional
        At least 1.

    Raises
    ------
    ValueError, TypeError
        If `n_threads`, or ``LANEWISE_NUM_THREADS``, is not a positive integer.
    """
    if n_threads is None:
        return default_threads()
    return check_int(n_threads, "n_threads", low=1, high=_MOST)


def default_threads() -> int:
    """Return how many threads a call uses if nothing is said.

    ``LANEWISE_NUM_THREADS`` if it is set; otherwise the CPUs that this process may run on, and no
    more than the CPU time that its control group allows, rounded up.

    Examples
    --------
    >>> default_threads() >= 1
    True
    """
    asked = os.environ.get(_ENVIRONMENT, "").strip()
    if asked:
        if not asked.isdecimal() or not 1 <= int(asked) <= _MOST:
            raise ValueError(
                f"{_ENVIRONMENT}: expected an integer from 1 to {_MOST}, got {asked!r}"
            )
        return int(asked)
    # Not every system tells the affinity.
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    allowed = _cgroup_cpus()
    return cpus if allowed >= cpus else max(1, math.ceil(allowed))


@cache
def _cgroup_cpus() -> float:
    """CPUs' worth of time that the control group allows, infinite without a limit."""
    try:
        memberships = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    limit = math.inf
    for line in memberships:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            limit = min(limit, _smallest_quota(Path("/sys/fs/cgroup"), group, _read_v2))
        elif "cpu" in controllers.split(","):
            limit = min(limit, _smallest_quota(Path("/sys/fs/cgroup/cpu"), group, _read_v1))
    return limit


def _smallest_quota(root: Path, group: str, read: Callable[[Path], float]) -> float:
    """Smallest limit on the way from the group up to the root: each level binds."""
    folder = root / group.lstrip("/")
    limit = math.inf
    while True:
        limit = min(limit, read(folder))
        if folder == root or root not in folder.parents:
            return limit
        folder = folder.parent


def _read_v2(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def _read_v1(folder: Path) -> float:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else math.inf
    except (OSError, ValueError):
        return math.inf
