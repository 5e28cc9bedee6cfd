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

__all__ = ["FINE_BITS", "BinaryPlanes", "BitPlan", "learn"]

# Bits a dimension of the codes between signs and rows, of each storage that begins with signs.
FINE_BITS = {"binary": 0, "binary2": 2, "binary4": 4}

_WORD = 64  # bits come in multiples
_TRIALS = 32
_NEIGHBOURS = 10
# Beside its bits a row's base and factor are read; a row that is scored lies apart from the others,
# which costs as much as so many bytes in sequence, as measured.
_BESIDE, _APART = 6, 8_192
# The same for the fine codes of a row: mostly what it takes to enter a candidate and to drop it.
_FINE_APART = 2_048
# What is lost of a direction by so many bits a dimension: (1 - cos^2) / cos^2 for the angle between
# normal coordinates and their codes.
_LOST = {1: 0.57, 2: 0.135, 4: 0.0117}
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
    fine_bits : {0, 2, 4}
        Bits a dimension of the codes that stand between signs and rows.
    refine : int
        Candidates of the signs whose fine codes a query is expected to need.
    """

    center: Floats
    n_bits: int
    n_axes: int
    panels: Floats | None
    seed: int
    outside: float
    rerank: int
    fine_bits: int = 0
    refine: int = 0

    @property
    def rotation(self) -> str | None:
        """Name of the axes."""
        return None if self.panels is None else "pca"

    @cached_property
    def native(self) -> _native.BitPlan:
        """The plan as the drivers take it."""
        rotation = RandomRotation(self.n_bits, seed=self.seed).native
        return _native.BitPlan(
            self.center, self.n_axes, self.panels, rotation, self.outside, self.fine_bits
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.center.nbytes + (0 if self.panels is None else self.panels.nbytes)


def learn(rows: Numbers, rotation: str | None, seed: int, fine_bits: int = 0) -> BitPlan:
    """Choose axes, their number and the number of bits for rows.

    Parameters
    ----------
    rows : ndarray of float32, uint8 or int8, shape (n, dim), n > 0
    rotation : {"auto", "pca", "fwht"}
        "fwht" rotates at random alone; before that, principal axes leave out what hardly matters.
    seed : int
        Of the random rotation.
    fine_bits : {0, 2, 4}
        Bits a dimension of the codes between signs and rows.

    Returns
    -------
    BitPlan
        Of those tried, the one whose queries read least: bits of every row, and the fine codes and
        the rows of as many candidates as a model of the sample says are needed.

    Notes
    -----
    With |y| = |z| = 1 the estimate's standard deviation is about sqrt(0.57 / n_bits), since the
    signs of a random direction make an angle of cosine sqrt(2 / pi) with it. Codes of 2 or 4 bits
    leave 0.135 or 0.0117 in the place of 0.57.
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

    def tried(n_bits: int) -> tuple[float, int, int, int, float]:
        """Bytes that a row costs a query, and what the plan needs to know."""
        bits = [1, fine_bits] if fine_bits > 0 else [1]
        expected, outside = _expected(Y, n, n_bits, [_LOST[b] for b in bits])
        *refine, rerank = (max(_FEWEST, math.ceil(number)) for number in expected)
        cost = n_bits / 8 + _BESIDE + rerank / n * (4 * dim + _APART)
        for number in refine:
            cost += number / n * (-(-n_bits * fine_bits // 512) * 64 + _FINE_APART)
        return cost, n_bits, rerank, sum(refine), outside

    _, n_bits, rerank, refine, outside = min(tried(n_bits) for n_bits in grid)
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
        rerank,
        fine_bits,
        refine,
    )


def _expected(Y: Floats, n: int, n_bits: int, lost: list[float]) -> tuple[list[float], float]:
    """Candidates that a query is expected to need among n rows, of which Y are some.

    For each of `lost`, what codes lose of a direction. And the mean square of what a neighbour's
    product gets from outside, relative to the lengths.

    Some rows of the sample play queries; their nearest in the sample say what must be found, as
    rare among the others as the ten nearest are in the whole.
    """
    if len(Y) < 4 * _TRIALS:
        return [float(n)] * len(lost), 0.0
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
    nearest = half[:, np.newaxis] - product - rest <= bound
    estimate = half[:, np.newaxis] - product
    needed = []
    for part in lost:
        # What is parallel to the row is estimated without error.
        sigma = np.sqrt(part / n_bits * np.maximum(lengths**2 - product**2, 0)) + 1e-30
        reach = np.where(nearest, estimate + _MARGIN * sigma, -np.inf)
        chance = _below((reach.max(axis=0) - estimate) / sigma)
        needed.append(min(float(np.sort(chance.mean(axis=0))[len(Z) // 2 :].mean() * n), float(n)))
    beyond = np.maximum(norms - (inside.astype(np.float64) ** 2).sum(axis=1), 0)
    outside = beyond[:, np.newaxis] * norms[::every][:_TRIALS]
    relative = np.divide(rest**2, outside, out=np.zeros_like(rest), where=outside > 0)
    return needed, float(relative[nearest].mean())


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
    fine_bits : {0, 2, 4}
        Bits a dimension of the codes between signs and rows.
    """

    def __init__(self, dim: int, axes: str | None, seed: int, fine_bits: int = 0) -> None:
        super().__init__()
        self.dim, self.axes, self.seed, self.fine_bits = dim, axes, seed, fine_bits

    def _shapes(self, positions: int) -> dict[str, tuple[type[Any], tuple[int, ...]]]:
        assert self.plan is not None
        shapes: dict[str, tuple[type[Any], tuple[int, ...]]] = {
            "bits": (np.uint8, (positions * self.plan.n_bits // 8,)),
            "base": (np.float32, (positions,)),
            "factors": (np.uint16, (positions,)),
            "errors": (np.uint16, (positions,)),
        }
        if self.fine_bits > 0:
            shapes["fine"] = (np.int8, (positions * self.plan.native.fine_stride,))
            shapes["fine_factors"] = (np.float32, (positions,))
            shapes["fine_errors"] = (np.uint16, (positions,))
        return shapes

    def fitted(self, rows: Numbers, positions: int, kernels: Kernels, threads: int) -> BinaryPlanes:
        """See `Planes`: what is learned are axes, and how many bits there are."""
        return self._with(learn(rows, self.axes, self.seed, self.fine_bits), {}).grown(positions)

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
        sizes = [plan.n_bits, plan.n_axes, plan.rerank]
        if self.fine_bits > 0:
            sizes.append(plan.refine)
        return {
            **self._filled(positions),
            "center": plan.center,
            "panels": panels,
            "sizes": np.array(sizes, dtype=np.int64),
            "seed": np.array([plan.seed], dtype=np.uint64),
            "outside": np.array([plan.outside]),
        }

    def restored(self, arrays: Arrays) -> BinaryPlanes:
        """See `Planes`."""
        if not arrays:
            return self
        n_bits, n_axes, rerank, *refine = (int(size) for size in arrays["sizes"])
        plan = BitPlan(
            arrays["center"],
            n_bits,
            n_axes,
            arrays["panels"] if arrays["panels"].size > 0 else None,
            int(arrays["seed"][0]),
            float(arrays["outside"][0]),
            rerank,
            self.fine_bits,
            sum(refine),
        )
        return self._restored(plan, arrays)
