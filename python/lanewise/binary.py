"""Rows as sign bits on axes of their own, and how many bits and candidates they need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lanewise import _native
from lanewise.arrays import Numbers
from lanewise.coding import centered_sample, packed, principal_axes, worth_axes
from lanewise.kernels import Kernels
from lanewise.planes import Arrays, Floats, LearnedPlanes
from lanewise.rotation import RandomRotation

__all__ = ["BinaryPlanes", "BitPlan", "learn"]

_WORD = 64  # bits come in multiples
_TRIALS = 32
_NEIGHBOURS = 10
# Beside its bits a row's base and factor are read; a row that is scored lies apart from the others,
# which costs as much as so many bytes in sequence, as measured.
_BESIDE, _APART = 6, 8_192
# How far the estimate of a neighbour may be off, in standard deviations, for it to be found.
_MARGIN = 2.5
_FEWEST = 100


@dataclass(frozen=True, eq=False)
class BitPlan:
    """Axes and rotation of sign bits.

    Attributes
    ----------
    center : ndarray of float32, shape (dim,)
    n_bits : int
        A multiple of 64.
    n_axes : int
        Axes that are kept.
    panels : ndarray of float32, shape (ceil(n_axes / 16), dim, 16), or None
        Axes, sixteen in a panel; None if they are the coordinates.
    seed : int
        Of the rotation.
    outside : float
        Variance of a product of what lies outside of the axes, relative to the squared lengths.
    rerank : int
        Candidates that a query is expected to need.
    """

    center: Floats
    n_bits: int
    n_axes: int
    panels: Floats | None
    seed: int
    outside: float
    rerank: int

    @property
    def rotation(self) -> str | None:
        """Name of the axes."""
        return None if self.panels is None else "pca"

    @cached_property
    def native(self) -> _native.BitPlan:
        """The plan as the drivers take it."""
        rotation = RandomRotation(self.n_bits, seed=self.seed).native
        return _native.BitPlan(self.center, self.n_axes, self.panels, rotation, self.outside)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.center.nbytes + (0 if self.panels is None else self.panels.nbytes)


def learn(rows: Numbers, rotation: str | None, seed: int) -> BitPlan:
    """Choose axes, their number and the number of bits for rows.

    Parameters
    ----------
    rows : ndarray of float32, uint8 or int8, shape (n, dim), n > 0
    rotation : {"auto", "pca", "fwht"}
        "fwht" rotates at random alone; before that, principal axes leave out what hardly matters.
    seed : int
        Of the random rotation.

    Returns
    -------
    BitPlan
        Of those tried, the one whose queries read least: bits of every row, and the rows of as
        many candidates as a model of the sample says are needed.

    Notes
    -----
    With |y| = |z| = 1 the estimate's standard deviation is about sqrt(0.57 / n_bits), since the
    signs of a random direction make an angle of cosine sqrt(2 / pi) with it.
    """
    n, dim = rows.shape
    sample, center = centered_sample(rows)
    axes: Floats | None = None
    if worth_axes(rotation, n, dim):
        axes, _ = principal_axes(sample, center)
    whole = -(-dim // _WORD) * _WORD
    if axes is None:
        # Bits beyond the dimension are worth their bytes where there are few dimensions.
        grid = sorted({whole, 2 * whole, max(whole, 256)})
    else:
        grid = [m for m in (64, 128, 192, 256, 384, 512, 768) if m < whole]
        grid += sorted({whole, 2 * whole, max(whole, 256)})
    Y = sample - center
    if axes is not None:
        Y = Y @ axes.T
    n_bits, expected, outside = min(
        ((m, *_expected(Y, n, m)) for m in grid),
        key=lambda plan: plan[0] / 8 + _BESIDE + max(_FEWEST, plan[1]) / n * (4 * dim + _APART),
    )
    kept = min(n_bits, dim)
    if kept == dim:
        axes = None
    return BitPlan(
        center,
        n_bits,
        kept,
        None if axes is None else packed(np.ascontiguousarray(axes[:kept])),
        seed,
        outside,
        max(_FEWEST, math.ceil(expected)),
    )


def _expected(Y: Floats, n: int, n_bits: int) -> tuple[float, float]:
    """Candidates that a query is expected to need among n rows, of which Y are some.

    And the mean square of what a neighbour's product gets from outside, relative to the lengths.

    Some rows of the sample play queries; their nearest in the sample say what must be found, as
    rare among the others as the ten nearest are in the whole.
    """
    if len(Y) < 4 * _TRIALS:
        return float(n), 0.0
    every = len(Y) // _TRIALS
    Z = Y[::every][:_TRIALS]
    m = len(Y) - 1
    norms = (Y.astype(np.float64) ** 2).sum(axis=1)
    half = norms / 2
    inside, query = Y[:, :n_bits], Z[:, :n_bits]
    product = (inside @ query.T).astype(np.float64)
    rest = (Y[:, n_bits:] @ Z[:, n_bits:].T).astype(np.float64)
    rank = min(m - 1, max(1, round(_NEIGHBOURS * m / n)))  # a query is a row itself
    bound = np.partition(half[:, np.newaxis] - product - rest, rank, axis=0)[rank]
    lengths = np.sqrt((inside.astype(np.float64) ** 2).sum(axis=1))[:, np.newaxis]
    lengths = lengths * np.sqrt((query.astype(np.float64) ** 2).sum(axis=1))
    # What is parallel to the row is estimated without error.
    error2 = 0.57 / n_bits * np.maximum(lengths**2 - product**2, 0)
    nearest = half[:, np.newaxis] - product - rest <= bound
    reach = np.where(nearest, half[:, np.newaxis] - product + _MARGIN * np.sqrt(error2), -np.inf)
    sigma = np.sqrt(error2) + 1e-30
    chance = _below((reach.max(axis=0) - half[:, np.newaxis] + product) / sigma)
    needed = np.sort(chance.mean(axis=0))[len(Z) // 2 :].mean() * n
    beyond = np.maximum(norms - (inside.astype(np.float64) ** 2).sum(axis=1), 0)
    outside = beyond[:, np.newaxis] * norms[::every][:_TRIALS]
    relative = np.divide(rest**2, outside, out=np.zeros_like(rest), where=outside > 0)
    return float(min(needed, n)), float(relative[nearest].mean())


def _below(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of a normal distribution below x, to about 1e-3: a logistic one of the same spread."""
    t = np.clip(x, -8, 8)
    return np.asarray(1 / (1 + np.exp(-1.5976 * t - 0.07056 * t**3)))


class BinaryPlanes(LearnedPlanes[BitPlan]):
    """Rows as sign bits, with what turns them into an estimate of a distance.

    Parameters
    ----------
    dim : int
    axes : {"auto", "pca", "fwht"}
        See `learn`.
    seed : int
        Of the random rotation.
    """

    def __init__(self, dim: int, axes: str | None, seed: int) -> None:
        super().__init__()
        self.dim, self.axes, self.seed = dim, axes, seed

    def _shapes(self, positions: int) -> dict[str, tuple[type[Any], tuple[int, ...]]]:
        assert self.plan is not None
        return {
            "bits": (np.uint8, (positions * self.plan.n_bits // 8,)),
            "base": (np.float32, (positions,)),
            "factors": (np.uint16, (positions,)),
            "errors": (np.uint16, (positions,)),
        }

    def fitted(self, rows: Numbers, positions: int, kernels: Kernels, threads: int) -> BinaryPlanes:
        """See `Planes`: what is learned are axes, and how many bits there are."""
        return self._with(learn(rows, self.axes, self.seed), {}).grown(positions)

    def native(self, positions: int) -> _native.Bits:
        """See `Planes`."""
        assert self.plan is not None
        return _native.Bits(self.plan.native, *self._planes.values())

    def arrays(self, positions: int) -> Arrays:
        """See `Planes`."""
        plan = self.plan
        if plan is None:
            return {}
        panels = np.empty(0, dtype=np.float32) if plan.panels is None else plan.panels
        return {
            **self._filled(positions),
            "center": plan.center,
            "panels": panels,
            "sizes": np.array([plan.n_bits, plan.n_axes, plan.rerank], dtype=np.int64),
            "seed": np.array([plan.seed], dtype=np.uint64),
            "outside": np.array([plan.outside]),
        }

    def restored(self, arrays: Arrays) -> BinaryPlanes:
        """See `Planes`."""
        if not arrays:
            return self
        n_bits, n_axes, rerank = (int(size) for size in arrays["sizes"])
        plan = BitPlan(
            arrays["center"],
            n_bits,
            n_axes,
            arrays["panels"] if arrays["panels"].size > 0 else None,
            int(arrays["seed"][0]),
            float(arrays["outside"][0]),
            rerank,
        )
        return self._restored(plan, arrays)
