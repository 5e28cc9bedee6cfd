"""An HNSW graph as arrays: taken over from hnswlib, checked, given back, coded and rotated."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from lanewise import _native
from lanewise.arrays import check_finite, check_int, check_metric
from lanewise.canonical import check_lengths
from lanewise.rotation import RandomRotation

__all__ = ["NO_LINK", "GraphArrays", "GraphCodes", "RotatedRows", "aligned_copy", "padded_dim"]

NO_LINK = np.uint32(2**32 - 1)

_LANES = 16
# What hnswlib's file begins with.
_HEADER = struct.Struct("<6QiI3QdQ")
_HEADER_NAMES = (
    "offset_level0",
    "max_elements",
    "cur_element_count",
    "size_data_per_element",
    "label_offset",
    "offset_data",
    "max_level",
    "enterpoint_node",
    "max_M",
    "max_M0",
    "M",
    "mult",
    "ef_construction",
)
_MOST_LINKS = 10_000
# Elements handled at a time where they change their form.
_STEP = 1 << 16
# Rows that tell the range of a code, and the share of them beyond it at either end; for eight bits
# the range is wider by half of itself on both sides, but ends with the rows.
_SAMPLE = 1 << 16
_OUTSIDE = {8: 1e-3, 4: 5e-3}
_WIDER = {8: 0.5, 4: 0.0}
# Of the rotation of rows. A saved index holds rows that were rotated by it: it stays.
_ROTATION_SEED = 7

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]


def padded_dim(dim: int) -> int:
    """Return the floats that a row is given: whole vectors of 16 where that costs little."""
    whole = -(-dim // _LANES) * _LANES
    return whole if 8 * whole <= 9 * dim else dim


def aligned(shape: tuple[int, int]) -> Floats:
    """Return zeros that begin at a multiple of 64 bytes."""
    flat = np.zeros(math.prod(shape) + _LANES, dtype=np.float32)
    begin = -flat.ctypes.data % 64 // flat.itemsize
    return flat[begin : begin + math.prod(shape)].reshape(shape)


def aligned_copy(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a copy that begins at a multiple of 64 bytes; what can be no rows as it is."""
    if rows.dtype != np.float32 or rows.ndim != 2:
        return rows
    copy = aligned(rows.shape)
    copy[:] = rows
    return copy


@dataclass(frozen=True, eq=False)
class GraphArrays:
    """A graph as it is searched.

    Attributes
    ----------
    rows : ndarray of float32, shape (n, padded_dim(dim))
        As hnswlib has them, for the cosine normalised by it; zeros behind the last coordinate.
    links : ndarray of uint32, shape (n, 2 M)
        Level 0, in hnswlib's order, then `NO_LINK`.
    upper_begin : ndarray of uint32, shape (n + 1,)
        Element i has ``upper_begin[i + 1] - upper_begin[i]`` levels above level 0, one row of
        `upper` each.
    upper : ndarray of uint32, shape (upper_begin[n], M)
    labels : ndarray of int64, shape (n,), or None
        Ids; None if they count from 0.
    deleted : ndarray of bool, shape (n,), or None
        Elements that are walked through but never answered; None if there are none.
    enter : int
        Where a search begins; -1 if there are no elements.
    M, ef_construction, mult, seed, ef
        hnswlib's parameters.
    """

    metric: str
    dim: int
    M: int
    ef_construction: int
    mult: float
    seed: int
    ef: int
    enter: int
    rows: Floats
    links: Words
    upper_begin: Words
    upper: Words
    labels: npt.NDArray[np.int64] | None
    deleted: npt.NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def levels(self) -> Words:
        """Highest level of each element."""
        return np.diff(self.upper_begin)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Ids of all elements."""
        return np.arange(len(self)) if self.labels is None else self.labels

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays that there are, by name."""
        names = ("rows", "links", "upper_begin", "upper", "labels", "deleted")
        found = {name: getattr(self, name) for name in names}
        return {name: array for name, array in found.items() if array is not None}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> GraphArrays:
        """Take over what ``hnswlib.Index.__getstate__`` returned.

        Raises
        ------
        ValueError
            If something in it does not fit.
        """
        if not state["index_inited"]:
            raise ValueError("expected an index that init_index or load_index has made")
        n = check_int(state["cur_element_count"], "cur_element_count", low=0, high=2**32 - 2)
        _expect(n <= state["max_elements"], "max_elements", f"at least {n}", state["max_elements"])
        sizes = _Sizes.checked({name: int(state[name]) for name in _Sizes.names})
        level0 = np.asarray(state["data_level0"]).view(np.uint8)
        blocks = np.asarray(state["link_lists"]).view(np.uint8)
        levels = np.asarray(state["element_levels"])[:n]
        _expect(level0.size == n * sizes.element, "data_level0", n * sizes.element, level0.size)
        _expect(len(levels) == n, "element_levels", n, len(levels))
        _expect(n == 0 or int(levels.min()) >= 0, "element_levels", "none below 0", levels)
        total = int(levels.sum()) * sizes.block
        _expect(blocks.size == total, "link_lists", total, blocks.size)
        _expect(sizes.dim == int(state["dim"]), "dim", state["dim"], sizes.dim)
        return cls._assembled(
            check_metric(state["space"]),
            sizes,
            level0.reshape(n, sizes.element),
            levels,
            blocks.reshape(-1, sizes.block),
            max_level=int(state["max_level"]),
            enter=int(state["enterpoint_node"]),
            seed=int(state["seed"]),
            ef=int(state["ef"]),
            **{name: state[name] for name in ("mult", "ef_construction")},
        )

    @classmethod
    def from_file(cls, data: Bytes, metric: str, dim: int | None) -> GraphArrays:
        """Take over what ``hnswlib.Index.save_index`` wrote.

        Raises
        ------
        ValueError
            If something in it does not fit.
        """
        _expect(data.size >= _HEADER.size, "size", f"at least {_HEADER.size} bytes", data.size)
        values = _HEADER.unpack(data[: _HEADER.size].tobytes())
        header = dict(zip(_HEADER_NAMES, values, strict=True))
        sizes = _Sizes.checked({name: header[name] for name in _Sizes.names})
        _expect(dim is None or dim == sizes.dim, "dim", dim, sizes.dim)
        n, room = header["cur_element_count"], header["max_elements"]
        _expect(n <= room, "max_elements", f"at least {n}", room)
        end = _HEADER.size + n * sizes.element
        whole = n < 2**32 - 1 and end + 4 * n <= data.size
        _expect(whole, "size", f"{n} elements of {sizes.element} bytes", data.size)
        levels = np.zeros(n, dtype=np.uint32)
        blocks = np.empty(data.size - end - 4 * n, dtype=np.uint8)
        fit = _native.split_lists(data[end:], sizes.block, levels, blocks)
        _expect(fit, "link lists", f"{n} of whole levels up to the end", "others")
        return cls._assembled(
            metric,
            sizes,
            data[_HEADER.size : end].reshape(n, sizes.element),
            levels,
            blocks.reshape(-1, sizes.block),
            max_level=header["max_level"],
            enter=header["enterpoint_node"],
            seed=100,
            ef=10,
            mult=header["mult"],
            ef_construction=header["ef_construction"],
        )

    @classmethod
    def _assembled(
        cls,
        metric: str,
        sizes: _Sizes,
        level0: Bytes,
        levels: npt.NDArray[Any],
        blocks: Bytes,
        *,
        max_level: int,
        enter: int,
        **parameters: Any,
    ) -> GraphArrays:
        n = len(level0)
        head = _field(level0, 0, 1, "<u4")[:, 0]
        _expect(not (head >> 17).any(), "level 0", "a count and one mark", "others")
        deleted = (head >> 16 & 1).astype(np.bool_)
        links = _cut(_field(level0, 4, 2 * sizes.M, "<u4"), head & 0xFFFF, "links of level 0")
        upper_head = _field(blocks, 0, 1, "<u4")[:, 0]
        upper = _cut(_field(blocks, 4, sizes.M, "<u4"), upper_head, "links above level 0")
        rows = aligned((n, padded_dim(sizes.dim)))
        rows[:, : sizes.dim] = _field(level0, sizes.rows, sizes.dim, "<f4")
        labels = _field(level0, sizes.labels, 1, "<u8")[:, 0]
        low = n == 0 or int(labels.max()) < 2**63
        _expect(low, "labels", "ids below 2**63", labels.max(initial=0))
        ids = labels.astype(np.int64)
        graph = cls(
            metric=metric,
            dim=sizes.dim,
            M=sizes.M,
            enter=enter if n > 0 else -1,
            rows=rows,
            links=links,
            upper_begin=np.concatenate(([0], np.cumsum(levels))).astype(np.uint32),
            upper=upper,
            labels=None if np.array_equal(ids, np.arange(n)) else ids,
            deleted=deleted if deleted.any() else None,
            **parameters,
        )
        top = int(levels.max()) if n > 0 else -1
        _expect(max_level == top, "max_level", top, max_level)
        graph.check()
        return graph

    def check(self, rows: bool = True) -> None:
        """Raise ValueError unless every search of this graph is safe, and its rows are vectors.

        Parameters
        ----------
        rows : bool, default True
            Whether to read the rows; they may lie on the disk.
        """
        n, n_upper = len(self.rows), len(self.upper)
        check_metric(self.metric)
        check_int(self.dim, "dim", low=1, high=2**24)
        check_int(self.M, "M", low=2, high=_MOST_LINKS)
        check_int(self.ef_construction, "ef_construction", low=1, high=2**31 - 1)
        check_int(self.ef, "ef", low=0, high=2**63 - 1)
        check_int(self.seed, "seed", low=0, high=2**64 - 1)
        _expect(0 < self.mult < math.inf, "mult", "a positive number", self.mult)
        for name, dtype, shape in (
            ("rows", np.float32, (n, padded_dim(self.dim))),
            ("links", np.uint32, (n, 2 * self.M)),
            ("upper_begin", np.uint32, (n + 1,)),
            ("upper", np.uint32, (n_upper, self.M)),
            ("labels", np.int64, (n,)),
            ("deleted", np.bool_, (n,)),
        ):
            array = self.arrays.get(name)
            if array is not None:
                found = (array.dtype, array.shape)
                _expect(found == (np.dtype(dtype), shape), name, (np.dtype(dtype), shape), found)
        begin = self.upper_begin.astype(np.int64)
        levels = np.diff(begin)
        rising = begin[0] == 0 and begin[-1] == n_upper and (levels >= 0).all()
        _expect(bool(rising), "upper_begin", f"positions from 0 to {n_upper}", "others")
        _check_ended(self.links, "links of level 0")
        _check_ended(self.upper, "links above level 0")
        self._check_targets(levels)
        if n > 0:
            _expect(0 <= self.enter < n, "enterpoint_node", f"one of {n} elements", self.enter)
            top = int(levels.max())
            at = int(levels[self.enter])
            _expect(at == top, "enterpoint_node", f"an element of level {top}", f"level {at}")
        else:
            _expect(self.enter == -1, "enterpoint_node", "none", self.enter)
        if self.labels is not None:
            good = (self.labels >= 0).all() and len(np.unique(self.labels)) == n
            _expect(bool(good), "labels", "different ids, none negative", "others")
        if rows:
            self._check_rows()

    def _check_targets(self, levels: npt.NDArray[np.int64]) -> None:
        n = len(self.rows)
        present = self.links != NO_LINK
        _expect(not (present & (self.links >= n)).any(), "links", f"to {n} elements", "others")
        if len(self.upper) == 0:
            return
        owner = np.repeat(np.arange(n), levels)
        level = np.arange(len(self.upper)) - self.upper_begin[owner] + 1
        present = self.upper != NO_LINK
        _expect(not (present & (self.upper >= n)).any(), "links", f"to {n} elements", "others")
        target = levels[np.where(present, self.upper, 0)]
        high = ~present | (target >= level[:, np.newaxis])
        _expect(bool(high.all()), "links above level 0", "to elements of that level", "others")

    def _check_rows(self) -> None:
        if len(self.rows) == 0:
            return
        check_finite(self.rows, self.rows, "rows")
        longest2 = check_lengths(self.rows, "rows")
        if self.metric == "cosine":
            # hnswlib adds up squares in float32, divides and multiplies.
            limit = 1 + (self.dim + 8) * 2.0**-23
            _expect(longest2 <= limit, "rows", "normalised ones for the cosine", longest2**0.5)
        if padded_dim(self.dim) > self.dim:
            _expect(not self.rows[:, self.dim :].any(), "rows", "zeros behind them", "others")

    def native(self) -> _native.Graph:
        """Return the graph as searches take it; there must be elements."""
        return _native.Graph(
            self.metric,
            self.rows,
            self.links,
            self.upper_begin,
            self.upper,
            self.enter,
            self.labels,
        )

    def state(self, max_elements: int, seed: int) -> dict[str, Any]:
        """Return what ``hnswlib.Index(params=...)`` takes."""
        n = len(self)
        sizes = _Sizes(self.M, self.dim)
        levels = np.zeros(max_elements, dtype=np.int32)
        levels[:n] = self.levels
        level0 = np.zeros((n, sizes.element), dtype=np.uint8)
        self._write_level0(level0, 0)
        return {
            "ser_version": 1,
            "space": self.metric,
            "dim": self.dim,
            "index_inited": True,
            "ep_added": n > 0,
            "normalize": self.metric == "cosine",
            "num_threads": 1,
            "seed": seed,
            **self._header(sizes, max_elements),
            "ef": self.ef,
            "has_deletions": self.deleted is not None,
            "size_links_per_element": sizes.block,
            "allow_replace_deleted": False,
            "label_lookup_external": self.ids.astype(np.uint64),
            "label_lookup_internal": np.arange(n, dtype=np.uint32),
            "element_levels": levels,
            "data_level0": level0.reshape(-1).view(np.int8),
            "link_lists": self._blocks(sizes).reshape(-1).view(np.int8),
        }

    def _header(self, sizes: _Sizes, max_elements: int) -> dict[str, Any]:
        return {
            **sizes.header(),
            "max_elements": max_elements,
            "cur_element_count": len(self),
            "max_level": int(self.levels.max()) if len(self) > 0 else -1,
            "enterpoint_node": self.enter if len(self) > 0 else int(NO_LINK),
            "mult": self.mult,
            "ef_construction": self.ef_construction,
        }

    def write_file(self, stream: IO[bytes]) -> None:
        """Write what ``hnswlib.Index.load_index`` reads."""
        n = len(self)
        sizes = _Sizes(self.M, self.dim)
        header = self._header(sizes, n)
        stream.write(_HEADER.pack(*(header[name] for name in _HEADER_NAMES)))
        for begin in range(0, n, _STEP):
            part = np.zeros((min(_STEP, n - begin), sizes.element), dtype=np.uint8)
            self._write_level0(part, begin)
            stream.write(part.data)
        blocks = self._blocks(sizes)
        lists = np.zeros(4 * n + blocks.size, dtype=np.uint8)
        begins = 4 * np.arange(n) + sizes.block * self.upper_begin[:-1].astype(np.int64)
        sizes_of = (self.levels * np.uint32(sizes.block)).astype("<u4").view(np.uint8)
        lists[begins[:, np.newaxis] + np.arange(4)] = sizes_of.reshape(n, 4)
        owner = np.repeat(np.arange(n), self.levels)
        at = 4 * (owner + 1) + sizes.block * np.arange(len(blocks))
        lists[at[:, np.newaxis] + np.arange(sizes.block)] = blocks
        stream.write(lists.data)

    def _write_level0(self, part: Bytes, begin: int) -> None:
        sizes = _Sizes(self.M, self.dim)
        some = slice(begin, begin + len(part))
        links = self.links[some]
        head = (links != NO_LINK).sum(axis=1, dtype=np.uint32)
        if self.deleted is not None:
            head |= self.deleted[some].astype(np.uint32) << np.uint32(16)
        _field(part, 0, 1, "<u4")[:, 0] = head
        _field(part, 4, 2 * self.M, "<u4")[:] = np.where(links == NO_LINK, 0, links)
        _field(part, sizes.rows, self.dim, "<f4")[:] = self.rows[some, : self.dim]
        ids = np.arange(begin, begin + len(part)) if self.labels is None else self.labels[some]
        _field(part, sizes.labels, 1, "<u8")[:, 0] = ids

    def _blocks(self, sizes: _Sizes) -> Bytes:
        blocks = np.zeros((len(self.upper), sizes.block), dtype=np.uint8)
        _field(blocks, 0, 1, "<u4")[:, 0] = (self.upper != NO_LINK).sum(axis=1)
        _field(blocks, 4, self.M, "<u4")[:] = np.where(self.upper == NO_LINK, 0, self.upper)
        return blocks


@dataclass(frozen=True)
class _Sizes:
    """Where hnswlib puts what, in bytes: it follows from M and the dimension."""

    M: int
    dim: int

    names = (
        "offset_level0",
        "size_data_per_element",
        "label_offset",
        "offset_data",
        "max_M",
        "max_M0",
        "M",
    )

    @classmethod
    def checked(cls, header: dict[str, int]) -> _Sizes:
        """Return the sizes that a header says; ValueError if they contradict each other."""
        M = check_int(header["M"], "M", low=2, high=_MOST_LINKS)
        dim = (header["label_offset"] - header["offset_data"]) // 4
        sizes = cls(M, check_int(dim, "dim", low=1, high=2**24))
        for name, expected in sizes.header().items():
            _expect(header[name] == expected, name, expected, header[name])
        return sizes

    @property
    def rows(self) -> int:
        return 4 + 8 * self.M

    @property
    def labels(self) -> int:
        return self.rows + 4 * self.dim

    @property
    def element(self) -> int:
        return self.labels + 8

    @property
    def block(self) -> int:
        return 4 + 4 * self.M

    def header(self) -> dict[str, int]:
        return {
            "offset_level0": 0,
            "size_data_per_element": self.element,
            "label_offset": self.labels,
            "offset_data": self.rows,
            "max_M": self.M,
            "max_M0": 2 * self.M,
            "M": self.M,
        }


@dataclass(frozen=True, eq=False)
class GraphCodes:
    """Codes of a graph's rows, which steer its searches.

    Coordinate d of row i is about ``center[d] + step[d] * code``, with codes of 8 bits from -127 to
    127 and codes of 4 bits from -8 to 7.
    """

    names: ClassVar = ("codes", "base", "center", "step")

    bits: int
    codes: npt.NDArray[np.int8]
    base: Floats
    center: Floats
    step: Floats

    @staticmethod
    def stride(dim: int, bits: int) -> int:
        """Bytes of a row of codes."""
        return -(-dim // 64) * 64 if bits == 8 else -(-dim // 128) * 64

    @classmethod
    def made(cls, rows: Floats, bits: int, product: bool, report: Callable[..., Any]) -> GraphCodes:
        """Code rows; order statistics and sums in a fixed order make the same codes everywhere."""
        n, dim = rows.shape
        stride = cls.stride(dim, bits)
        sample = np.sort(rows[:: -(-n // _SAMPLE)], axis=0)
        out = int(_OUTSIDE[bits] * (len(sample) - 1))
        low, high = (sample[i].astype(np.float64) for i in (out, len(sample) - 1 - out))
        wider = _WIDER[bits] * (high - low)
        low = np.maximum(rows.min(axis=0), low - wider)
        high = np.minimum(rows.max(axis=0), high + wider)
        n_steps, first = (254, -127) if bits == 8 else (15, -8)
        step = ((high - low) / n_steps).astype(np.float32)
        # What is smaller than any normal number is not worth a code.
        step[step < np.finfo(np.float32).tiny] = 0
        center = (low - first * step.astype(np.float64)).astype(np.float32)
        codes = np.zeros(n * stride + 64, dtype=np.int8)
        table = codes[: n * stride].reshape(n, stride)
        base = np.zeros(n, dtype=np.float32)
        per_step = np.divide(1.0, step, out=np.zeros(dim), where=step > 0, dtype=np.float64)
        norms = np.empty(min(_STEP, n), dtype=np.float64)
        for begin in range(0, n, _STEP):
            some = slice(begin, min(begin + _STEP, n))
            x = np.rint((rows[some] - center.astype(np.float64)) * per_step)
            x = np.clip(x, first, first + n_steps)
            _store(table[some], x.astype(np.int8), bits)
            if not product:
                m = some.stop - begin
                _native.squared_norms((x * step).astype(np.float32), norms[:m])
                # Beyond what float32 holds only for rows as long as they may be.
                base[some] = np.minimum(norms[:m], np.finfo(np.float32).max)
            report("coding", some.stop, n)
        return cls(bits, codes, base, center, step)

    def check(self, graph: GraphArrays) -> None:
        """Raise ValueError unless the codes fit a graph."""
        n, dim = graph.rows.shape
        for name, dtype, shape in (
            ("codes", np.int8, (n * self.stride(dim, self.bits) + 64,)),
            ("base", np.float32, (n,)),
            ("center", np.float32, (dim,)),
            ("step", np.float32, (dim,)),
        ):
            array = getattr(self, name)
            found = (array.dtype, array.shape)
            _expect(found == (np.dtype(dtype), shape), name, (np.dtype(dtype), shape), found)
            if dtype == np.float32:
                _expect(bool(np.isfinite(array).all()), name, "finite values", "others")

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays, by name."""
        return {name: getattr(self, name) for name in self.names}

    def steer(self, native: _native.Graph) -> None:
        """Let searches of a graph go by the codes."""
        native.steer(self.codes, self.bits, self.base, self.center, self.step)


@dataclass(frozen=True, eq=False)
class RotatedRows:
    """A graph's rows rotated at random, which steer its searches by their first dimensions.

    Attributes
    ----------
    rotation : RandomRotation
    rows : ndarray of float32, shape (n, padded_dim(dim))
        Rotated with the zeros behind them, among which they spread as well.
    norms : ndarray of float32, shape (n,), or None
        Their squared lengths, for inner product and cosine.
    """

    rotation: RandomRotation
    rows: Floats
    norms: Floats | None

    @classmethod
    def made(cls, graph: GraphArrays, report: Callable[..., Any]) -> Self:
        """Rotate rows."""
        n, dim = graph.rows.shape
        rotation = RandomRotation(dim, seed=_ROTATION_SEED)
        rows = aligned(graph.rows.shape)
        norms = None if graph.metric == "l2" else np.empty(n, dtype=np.float32)
        for begin in range(0, n, _STEP):
            some = slice(begin, min(begin + _STEP, n))
            rotation.transform(graph.rows[some], out=rows[some])
            if norms is not None:
                squared = np.empty(some.stop - begin, dtype=np.float64)
                _native.squared_norms(rows[some], squared)
                norms[some] = squared
            report("rotating", some.stop, n)
        return cls(rotation, rows, norms)

    @classmethod
    def restored(cls, graph: GraphArrays, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Return what has such `arrays`, not checked yet."""
        rotation = RandomRotation(graph.rows.shape[1], seed=_ROTATION_SEED)
        return cls(rotation, aligned_copy(arrays["rows"]), arrays.get("norms"))

    def check(self, graph: GraphArrays) -> None:
        """Raise ValueError unless the rows fit a graph, and no distance to them overflows."""
        n, rows = len(graph), self.rows
        found = (rows.dtype, rows.shape)
        expected = (np.dtype(np.float32), graph.rows.shape)
        _expect(found == expected, "rotated rows", expected, found)
        squared = np.empty(n, dtype=np.float64)
        # Twice what rows may have leaves room for rounding. NaN is no such length either.
        limit = float(np.finfo(np.float32).max) / 4
        longest2 = _native.squared_norms(rows, squared)
        _expect(longest2 <= limit, "rotated rows", "rows that are no longer", longest2**0.5)
        norms, wanted = self.norms, graph.metric != "l2"
        same = (norms is not None) == wanted
        if norms is not None:
            same = same and norms.dtype == np.float32
            same = same and np.array_equal(norms, squared.astype(np.float32))
        _expect(same, "rotated norms", "those of the rows" if wanted else "none", "others")

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays that there are, by name."""
        return {"rows": self.rows} | ({} if self.norms is None else {"norms": self.norms})

    def steer(self, native: _native.Graph) -> None:
        """Let searches of a graph go by the rotated rows."""
        native.steer_rotated(self.rows, self.norms)


def _store(table: npt.NDArray[np.int8], codes: npt.NDArray[np.int8], bits: int) -> None:
    """Write codes in the form that the kernels take them."""
    n, dim = codes.shape
    if bits == 8:
        table[:, :dim] = codes
        return
    # Byte b of a stretch of 64 holds code b in its low half and code 64 + b in its high one.
    whole = np.full((n, 2 * table.shape[1]), 8, dtype=np.uint8)
    whole[:, :dim] = codes + 8
    halves = whole.reshape(n, -1, 2, 64)
    table[:] = (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(n, -1).view(np.int8)


def _field(records: Bytes, offset: int, count: int, dtype: str) -> npt.NDArray[Any]:
    """View `count` numbers at an offset in every record."""
    n, size = records.shape
    item = np.dtype(dtype)
    if n == 0:
        return np.empty((0, count), dtype=item)
    return np.ndarray((n, count), item, records.data, offset, (size, item.itemsize))


def _cut(links: npt.NDArray[Any], counts: npt.NDArray[Any], what: str) -> Words:
    """Return a copy of links that ends each list behind its count."""
    most = links.shape[1]
    _expect(not (counts > most).any(), what, f"at most {most}", counts.max(initial=0))
    behind = np.arange(most) >= counts[:, np.newaxis]
    named = links.astype(np.uint32)
    # No element has this number; behind the end it stands for nothing.
    _expect(not (~behind & (named == NO_LINK)).any(), what, "to elements", NO_LINK)
    named[behind] = NO_LINK
    return named


def _check_ended(links: Words, what: str) -> None:
    """Nothing may stand behind the end of a list."""
    missing = links == NO_LINK
    _expect(not (missing[:, :-1] & ~missing[:, 1:]).any(), what, "no gaps", "some")


def _expect(right: bool, name: str, expected: Any, found: Any) -> None:
    if not right:
        raise ValueError(f"{name}: expected {expected}, got {found}")
