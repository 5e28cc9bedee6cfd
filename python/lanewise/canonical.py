"""Rows as they are scored: short enough for float32, and normalised where the metric asks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise import _native
from lanewise.arrays import Numbers, as_queries

__all__ = [
    "MAX_LENGTH",
    "accepted_queries",
    "as_they_are",
    "canonical_queries",
    "check_lengths",
    "normalized",
    "squared_lengths",
]

# Squared distances between two accepted vectors are at most half of the largest float32.
_MAX_NORM2 = float(np.finfo(np.float32).max) / 8
MAX_LENGTH = math.sqrt(_MAX_NORM2)
_FLOAT32 = np.dtype(np.float32)


def as_they_are(queries: Any, dim: int) -> npt.NDArray[np.float32] | None:
    """Return queries that need neither conversion nor complaint as a matrix, None for others.

    A scan leaves the caches cold, so that each step of a longer way counts many times over.
    """
    if type(queries) is not np.ndarray or queries.dtype is not _FLOAT32:
        return None
    flags = queries.flags
    if not (flags.c_contiguous and flags.aligned) or not 1 <= queries.ndim <= 2:
        return None
    if queries.size == 0 or queries.shape[-1] != dim:
        return None
    rows = queries.reshape(-1, dim)
    # Of NaN and infinities too.
    largest = _native.squared_norms(rows, np.empty(len(rows), dtype=np.float64))
    return rows if largest <= _MAX_NORM2 else None


def accepted_queries(
    queries: Any, dim: int, name: str, *, any_length: bool = False
) -> npt.NDArray[np.float32]:
    """Validate queries; return them as they came, as a matrix."""
    rows = as_they_are(queries, dim)
    if rows is None:
        rows = as_queries(queries, name, dim)
        if not any_length:
            check_lengths(rows, name)
    return rows


def canonical_queries(queries: Any, dim: int, metric: str) -> npt.NDArray[np.float32]:
    """Validate queries; return them as they are scored."""
    rows = accepted_queries(queries, dim, "queries", any_length=metric == "cosine")
    return normalized(rows) if metric == "cosine" else rows


def check_lengths(X: Numbers, name: str) -> float:
    """Return the largest squared length, or raise ValueError if a distance could overflow."""
    return float(squared_lengths(X, name).max(initial=0.0))


def squared_lengths(X: Numbers, name: str) -> npt.NDArray[np.float64]:
    """Return the squared lengths, or raise ValueError if a distance could overflow."""
    norms2 = np.empty(len(X), dtype=np.float64)
    if _native.squared_norms(X, norms2) > _MAX_NORM2:
        row = int(np.argmax(norms2 > _MAX_NORM2))
        raise ValueError(
            f"{name}: expected vectors no longer than {MAX_LENGTH:.3g}, so that "
            f"distances stay finite, got length {math.sqrt(norms2[row]):.3g} in row {row}"
        )
    return norms2


def normalized(X: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows of length 1; a zero row stays zero."""
    unit = np.empty_like(X)
    _native.normalize(X, unit)
    return unit
