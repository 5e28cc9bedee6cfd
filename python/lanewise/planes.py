"""Planes: the rows once more, in a form that is fast to scan."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import replace
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from lanewise import _native
from lanewise.arrays import Numbers
from lanewise.coding import CodePlan, learn, measured
from lanewise.kernels import Kernels
from lanewise.rotation import RandomRotation

__all__ = ["Arrays", "BlockPlanes", "CodePlanes", "Floats", "LearnedPlanes", "Planes"]

# Kernels read whole registers, and so behind the end.
_FRONT_PADDING = 1024
_BODY_PADDING = 64

Floats = npt.NDArray[np.float32]
Arrays = dict[str, np.ndarray[Any, Any]]


class Planes(Protocol):
    """What a scan reads first. Arrays may be longer than what is filled: that is room to grow."""

    def fitted(self, rows: Numbers, positions: int, kernels: Kernels, threads: int) -> Self:
        """Return empty planes with what there is to learn learned from the rows."""

    def grown(self, positions: int) -> Self:
        """Return planes with room for so many positions; arrays that others hold are left."""

    def fill(
        self, store: _native.Store, kernels: Kernels, first: int, last: int, threads: int
    ) -> Self:
        """Enter the rows at positions [first, last)."""

    def native(
        self, positions: int
    ) -> _native.Blocks | _native.Codes | _native.Bits | _native.Products:
        """Return the filled part, as the drivers take it."""

    def arrays(self, positions: int) -> Arrays:
        """Return what `restored` needs, without room to grow."""

    def restored(self, arrays: Arrays) -> Self:
        """Return the planes that `arrays` described."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""

    @property
    def rotation(self) -> str | None:
        """Name of the axes."""


class BlockPlanes:
    """Centred and randomly rotated rows in float32, dimension-major in blocks of 64.

    Parameters
    ----------
    dim, seed
        Of the rotation.
    product : bool
        Whether distances are made of inner products, so that each row needs its norm.
    """

    rotation = "fwht"

    def __init__(self, dim: int, seed: int, product: bool) -> None:
        self.dim, self.seed, self.product = dim, seed, product
        self._rotation = RandomRotation(dim, seed=seed)
        self._center = np.zeros(dim, dtype=np.float32)
        self._norms = np.empty(0, dtype=np.float32)
        self._data = np.empty(0, dtype=np.float32)
        self._max_centered_norm2 = 0.0

    def fitted(self, rows: Numbers, positions: int, kernels: Kernels, threads: int) -> BlockPlanes:
        """See `Planes`: what is learned is the mean."""
        new = BlockPlanes(self.dim, self.seed, self.product)
        _native.mean(rows, new._center)
        new._norms = np.zeros(positions, dtype=np.float32)
        new._data = np.empty(positions * self.dim, dtype=np.float32)
        return new

    def grown(self, positions: int) -> BlockPlanes:
        """See `Planes`."""
        if positions <= len(self._norms):
            return self
        new = copy(self)
        room = max(positions, len(self._norms) * 3 // 2 // 64 * 64)
        new._norms = extended(self._norms, room)
        new._data = extended(self._data, room * self.dim)
        return new

    def fill(
        self, store: _native.Store, kernels: Kernels, first: int, last: int, threads: int
    ) -> BlockPlanes:
        """See `Planes`."""
        new = copy(self)
        largest = _native.fill_blocks(
            kernels,
            self._rotation.native,
            self._center,
            store,
            first,
            last,
            self._norms if self.product else None,
            self._data,
            threads,
        )
        new._max_centered_norm2 = max(self._max_centered_norm2, largest)
        return new

    def native(self, positions: int) -> _native.Blocks:
        """See `Planes`."""
        return _native.Blocks(
            self._rotation.native,
            self._center,
            self._norms[:positions],
            self._data[: positions * self.dim],
            math.sqrt(self._max_centered_norm2),
        )

    def arrays(self, positions: int) -> Arrays:
        """See `Planes`."""
        return {
            "center": self._center,
            "norms": self._norms[:positions],
            "blocks": self._data[: positions * self.dim],
            "max_centered_norm2": np.array([self._max_centered_norm2]),
        }

    def restored(self, arrays: Arrays) -> BlockPlanes:
        """See `Planes`."""
        new = copy(self)
        new._center, new._norms, new._data = (arrays[n] for n in ("center", "norms", "blocks"))
        new._max_centered_norm2 = float(arrays["max_centered_norm2"][0])
        return new

    @property
    def nbytes(self) -> int:
        """See `Planes`."""
        return self._norms.nbytes + self._data.nbytes + self._center.nbytes


class Plan(Protocol):
    """What was learned from rows."""

    @property
    def rotation(self) -> str | None:
        """Name of the axes."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""


AnyPlan = TypeVar("AnyPlan", bound=Plan)


class LearnedPlanes(ABC, Generic[AnyPlan]):
    """What planes have in common that are arrays described by a plan."""

    def __init__(self) -> None:
        self.plan: AnyPlan | None = None
        self._planes: Arrays = {}

    @abstractmethod
    def _shapes(self, positions: int) -> dict[str, tuple[type[Any], tuple[int, ...]]]:
        """Type and shape of each array, with the padding that kernels read."""

    @abstractmethod
    def native(self, positions: int) -> Any:
        """See `Planes`."""

    def grown(self, positions: int) -> Self:
        """See `Planes`."""
        room = len(self._planes["base"]) if self._planes else 0
        if self.plan is None or room >= positions > 0:
            return self
        room = max(positions, room * 3 // 2 // 64 * 64)
        return self._with(
            self.plan,
            {
                name: extended(self._planes[name], shape[-1])
                if self._planes
                else np.zeros(shape, dtype=dtype)
                for name, (dtype, shape) in self._shapes(room).items()
            },
        )

    def fill(
        self, store: _native.Store, kernels: Kernels, first: int, last: int, threads: int
    ) -> Self:
        """See `Planes`."""
        self.native(last).fill(kernels, store, first // 16 * 16, last, threads)
        return self

    @property
    def nbytes(self) -> int:
        """See `Planes`."""
        plan = 0 if self.plan is None else self.plan.nbytes
        return plan + sum(array.nbytes for array in self._planes.values())

    @property
    def rotation(self) -> str | None:
        """See `Planes`."""
        return None if self.plan is None else self.plan.rotation

    def _filled(self, positions: int) -> Arrays:
        """Arrays without room to grow."""
        shapes = self._shapes(positions)
        return {name: array[..., : shapes[name][1][-1]] for name, array in self._planes.items()}

    def _with(self, plan: AnyPlan, planes: Arrays) -> Self:
        new = copy(self)
        new.plan, new._planes = plan, planes
        return new

    def _restored(self, plan: AnyPlan, arrays: Arrays) -> Self:
        new = self._with(plan, {})
        new._planes = {name: np.ascontiguousarray(arrays[name]) for name in new._shapes(0)}
        return new


class CodePlanes(LearnedPlanes[CodePlan]):
    """Rows in codes on axes of their own, with what certifies them.

    Parameters
    ----------
    dim : int
    axes : {"auto", "pca", None}
        See `lanewise.coding.learn`.
    product : bool
        Whether distances are made of inner products.
    body_bits : {8, 4}
        Bits of the codes that survivors of the front read.
    """

    def __init__(self, dim: int, axes: str | None, product: bool, body_bits: int) -> None:
        super().__init__()
        self.dim, self.axes, self.product, self.body_bits = dim, axes, product, body_bits

    def _shapes(self, positions: int) -> dict[str, tuple[type[Any], tuple[int, ...]]]:
        assert self.plan is not None
        native = self.plan.native
        fronts = {
            f"front-{step}": (np.int8, (positions * width + _FRONT_PADDING,))
            for step, width in enumerate(self.plan.front_widths)
        }
        return {
            "body": (np.int8, (positions * native.body_stride + _BODY_PADDING,)),
            "base": (np.float32, (positions,)),
            "residuals": (np.uint16, (positions,)),
            "tails": (np.uint16, (native.n_tails, positions)),
            **fronts,
        }

    def fitted(self, rows: Numbers, positions: int, kernels: Kernels, threads: int) -> CodePlanes:
        """See `Planes`: what is learned are axes, steps and scales."""
        plan = learn(rows, self.axes, self.body_bits, kernels, threads)
        return self._with(plan, {}).grown(positions)

    def calibrated(
        self,
        queries: Floats,
        neighbors: Floats,
        distances: Floats,
        kernels: Kernels,
        threads: int,
    ) -> CodePlanes:
        """Return planes whose likely bounds fit what was measured.

        `queries` (m, dim) have the nearest rows `neighbors` (m, k, dim) at `distances` (m, k).
        """
        assert self.plan is not None
        native = self.plan.native
        Z = np.empty_like(queries)
        native.project(kernels, queries, Z, threads)
        Y = np.empty_like(neighbors)
        flat = (-1, neighbors.shape[-1])
        native.project(kernels, neighbors.reshape(flat), Y.reshape(flat), threads)
        factor = 2.0 if self.product else 1.0
        plan = replace(self.plan, neighbors=measured(self.plan, Z, Y, distances, factor))
        return self._with(plan, self._planes)

    def native(self, positions: int) -> _native.Codes:
        """See `Planes`."""
        assert self.plan is not None
        return _native.Codes(self.plan.native, *self._planes.values())

    def arrays(self, positions: int) -> Arrays:
        """See `Planes`."""
        plan = self.plan
        if plan is None:
            return {}
        panels = np.empty(0, dtype=np.float32) if plan.panels is None else plan.panels
        return {
            **self._filled(positions),
            "steps": np.array(
                [plan.body_bits, plan.n_front, plan.n_front_steps, *plan.ends], dtype=np.uint32
            ),
            "center": plan.center,
            "panels": panels,
            "scales": plan.scales,
            "bounds": np.array(
                [plan.distortion, plan.front_length, plan.body_length, plan.residual]
            ),
            "neighbors": plan.neighbors,
        }

    def restored(self, arrays: Arrays) -> CodePlanes:
        """See `Planes`."""
        if not arrays:
            return self
        steps, bounds = arrays["steps"], [float(bound) for bound in arrays["bounds"]]
        plan = CodePlan(
            body_bits=int(steps[0]),
            n_front=int(steps[1]),
            n_front_steps=int(steps[2]),
            ends=np.ascontiguousarray(steps[3:]),
            center=arrays["center"],
            panels=arrays["panels"] if arrays["panels"].size > 0 else None,
            distortion=bounds[0],
            scales=arrays["scales"],
            front_length=bounds[1],
            body_length=bounds[2],
            residual=bounds[3],
            neighbors=arrays["neighbors"],
        )
        if "front" in arrays:
            arrays = {**arrays, **_split_front(arrays["front"], plan)}
        return self._restored(plan, arrays)


def _split_front(front: np.ndarray[Any, Any], plan: CodePlan) -> Arrays:
    """Return the planes of a front that was written with all its steps in one."""
    assert plan.native  # which has checked the steps
    groups = front.ravel()[:-_FRONT_PADDING].reshape(-1, 16 * plan.n_front)
    parts = np.split(groups, 16 * plan.ends[: plan.n_front_steps - 1], axis=1)
    return {
        f"front-{step}": extended(part.ravel(), part.size + _FRONT_PADDING)
        for step, part in enumerate(parts)
    }


def extended(array: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    """Return a copy with a longer last axis."""
    new = np.zeros((*array.shape[:-1], length), dtype=array.dtype)
    new[..., : array.shape[-1]] = array
    return new
