import numpy as np
import numpy.typing as npt
from typing_extensions import disjoint_base

_U8 = npt.NDArray[np.uint8]
_I8 = npt.NDArray[np.int8]
_U16 = npt.NDArray[np.uint16]
_U32 = npt.NDArray[np.uint32]
_F32 = npt.NDArray[np.float32]
_F64 = npt.NDArray[np.float64]
_I32 = npt.NDArray[np.int32]
_I64 = npt.NDArray[np.int64]
_U64 = npt.NDArray[np.uint64]
_Numbers = npt.NDArray[np.float32 | np.uint8 | np.int8]

@disjoint_base
class Kernels:
    name: str
    def __init__(self, *args: object) -> None: ...
    def all_finite(self, x: _F32, scale: float = 1.0) -> bool: ...
    def fwht(self, x: _F32, weights: _F32) -> None: ...
    def prune(
        self,
        block: _F32,
        query: _F32,
        begin: int,
        end: int,
        partial: _F32,
        norms: _F32,
        offset: float,
        scale: float,
        alive: int,
    ) -> int: ...
    def l2_rows(self, query: _F32, rows: _F32, ids: _I64, out: _F32) -> None: ...
    def dot_rows(self, query: _F32, rows: _F32, ids: _I64, out: _F32) -> None: ...
    def l2_rows_within(
        self,
        query: _F32,
        rows: _F32,
        ids: _I64,
        bounds: _F32,
        step: int,
        factors: _F32 | None,
        out: _F32,
    ) -> None: ...
    def project(self, x: _F32, panels: _F32, out: _F32) -> None: ...
    def screen_codes(
        self,
        codes: _I8,
        base: _F32,
        residuals: _U16,
        tails: _U16,
        ends: _U32,
        queries: _I8,
        sums: _I32,
        shifts: _I32,
        scales: _F32,
        tail_weights: _F32,
        residual_weights: _F32,
        limits: _F32,
        alive: _U16,
        estimates: _F32,
        quads_read: _U64,
        tile: bool,
        first_look: int = 0,
    ) -> None: ...
    def dot_codes(
        self, query: _I8, rows: _I8, positions: _I64, out: _I32, bits: int = 8
    ) -> None: ...
    def screen_bits(
        self,
        bits: _U8,
        base: _F32,
        factors: _U16,
        tables: _U8,
        total: int,
        step: float,
        limit: float,
        alive: _U16,
        estimates: _F32,
    ) -> None: ...
    def assign(
        self,
        points: _F32,
        centroids: _F32,
        bias: _F32,
        scratch: _F32,
        labels: _I32,
        scores: _F32,
        runner_ups: _F32,
        ids: _U32 | None = None,
    ) -> None: ...
    def code_rows(self, rows: _F32, shift: _F32, least: float, codes: _I8, facts: _F32) -> None: ...
    def assign_codes(
        self,
        points: _I8,
        weights: _F32,
        doubts: _F32,
        centroids: _I8,
        bias: _F32,
        scratch: _F32,
        near: _I32,
        ids: _U32 | None = None,
    ) -> None: ...
    def max_dots(self, rows: _F32, panels: _F32, out: _F32) -> None: ...
    def max_code_dots(
        self, rows: _I8, scales: _F32, sums: _I32, panels: _I8, out: _F32
    ) -> None: ...
    def nearest_words(self, points: _F32, words: _F32, bias: _F32, labels: _I32) -> None: ...
    def add_to_words(self, rows: _F32, labels: _I32, sums: _F64) -> None: ...
    def screen_nibbles(
        self,
        codes: _U8,
        base: _F32,
        factors: _U16,
        tables: _U8,
        total: int,
        step: float,
        limit: float,
        alive: _U16,
        estimates: _F32,
    ) -> None: ...
    def decode_nibbles(self, codes: _U8, tables: _U8, length: int, out: _I8) -> None: ...
    def decode_bytes(self, codes: _U8, tables: _I32, out: _I32) -> None: ...
    def screen_decoded(
        self,
        quads: _I8,
        base: _F32,
        factors: _U16,
        queries: _I8,
        totals: _I32,
        steps: _F32,
        limits: _F32,
        alive: _U16,
        estimates: _F32,
    ) -> None: ...
    def threefry(
        self, key: _U64, counter0: _U64, counter1: int, out0: _U64, out1: _U64
    ) -> None: ...
    def multiply_adds(self, n: int, x: _F32, y: _F32, out: _F32) -> None: ...
    def multiply_add_codes(self, n: int, codes: _I8, query: _I8, out: _I32) -> None: ...

@disjoint_base
class Rotation:
    def __init__(self, weights: _F32, chunk: int, stride: int) -> None: ...
    @property
    def error_bound(self) -> float: ...
    def apply(self, kernels: Kernels, x: _F32, y: _F32, n_threads: int, back: bool) -> bool: ...

@disjoint_base
class Store:
    def __init__(
        self,
        metric: str,
        list_begin: _I64,
        list_size: _I64,
        row_of: _I64 | None,
        labels: _I64 | None,
        rows: _Numbers,
        max_norm: float,
        first_position: int = 0,
    ) -> None: ...

@disjoint_base
class Blocks:
    def __init__(
        self, rotation: Rotation, center: _F32, norms: _F32, data: _F32, max_centered_norm: float
    ) -> None: ...

@disjoint_base
class CodePlan:
    def __init__(
        self,
        n_front: int,
        n_front_steps: int,
        ends: _U32,
        center: _F32,
        panels: _F32 | None,
        distortion: float,
        scales: _F32,
        front_length: float,
        body_length: float,
        residual: float,
        neighbors: _F64,
        body_bits: int = 8,
    ) -> None: ...
    @property
    def body_stride(self) -> int: ...
    @property
    def n_tails(self) -> int: ...
    def project(self, kernels: Kernels, x: _F32, y: _F32, n_threads: int) -> None: ...

@disjoint_base
class Codes:
    def __init__(
        self, plan: CodePlan, front: _I8, body: _I8, base: _F32, residuals: _U16, tails: _U16
    ) -> None: ...
    def fill(
        self, kernels: Kernels, store: Store, first: int, last: int, n_threads: int
    ) -> None: ...

@disjoint_base
class BitPlan:
    def __init__(
        self,
        center: _F32,
        n_axes: int,
        panels: _F32 | None,
        rotation: Rotation,
        outside: float,
        fine_bits: int = 0,
    ) -> None: ...
    @property
    def fine_stride(self) -> int: ...

@disjoint_base
class Bits:
    def __init__(
        self,
        plan: BitPlan,
        bits: _U8,
        base: _F32,
        factors: _U16,
        errors: _U16,
        fine: _I8 | None = None,
        fine_factors: _F32 | None = None,
        fine_errors: _U16 | None = None,
    ) -> None: ...
    def fill(
        self, kernels: Kernels, store: Store, first: int, last: int, n_threads: int
    ) -> None: ...

@disjoint_base
class Words:
    def __init__(self, words: _F32, panels: _F32 | None) -> None: ...
    def encode(self, kernels: Kernels, x: _F32, codes: _U8, n_threads: int) -> None: ...

@disjoint_base
class ProductPlan:
    def __init__(
        self,
        kernels: Kernels,
        words: Words,
        center: _F32,
        centroids: _F32,
        by_residual: bool,
    ) -> None: ...
    @property
    def n_bytes(self) -> int: ...

@disjoint_base
class Products:
    def __init__(
        self, plan: ProductPlan, codes: _U8, base: _F32, factors: _U16, errors: _U16
    ) -> None: ...
    def fill(
        self, kernels: Kernels, store: Store, first: int, last: int, n_threads: int
    ) -> None: ...

def train_words(
    kernels: Kernels, x: _F32, words: _F32, n_iterations: int, n_threads: int
) -> None: ...

@disjoint_base
class Within:
    def sizes(self, out: _I64) -> None: ...
    def copy(self, distances: _F32, ids: _I64) -> None: ...

def scan(
    kernels: Kernels,
    store: Store,
    planes: Blocks | Codes | Bits | Products,
    queries: _F32,
    probes: _I64 | None,
    allowed: _U64 | None,
    k: int,
    eps0: float,
    delta: int,
    distances: _F32,
    ids: _I64,
    stats: _U64,
    n_threads: int,
    rerank: int = 0,
    n_probe: int = 0,
    refine: int = 0,
    radius: float = ...,
) -> None: ...
def scan_within(
    kernels: Kernels,
    store: Store,
    planes: Blocks | Codes | Bits | Products,
    queries: _F32,
    probes: _I64 | None,
    allowed: _U64 | None,
    radius: float,
    eps0: float,
    delta: int,
    stats: _U64,
    n_threads: int,
) -> Within: ...
def rescore(
    kernels: Kernels,
    store: Store,
    queries: _F32,
    rows: _I64,
    k: int,
    distances: _F32,
    ids: _I64,
    stats: _U64,
    n_threads: int,
) -> None: ...
def kernel_names() -> list[tuple[str, bool]]: ...
def kernels_by_name(name: str) -> Kernels: ...
def score_lists(
    kernels: Kernels,
    metric: str,
    queries: _F32,
    rows: _Numbers,
    ids: _I64,
    distances: _F32,
    n_threads: int,
) -> None: ...
def squared_norms(rows: _Numbers, out: _F64) -> float: ...
def mean(rows: _Numbers, out: _F32) -> None: ...
def normalize(rows: _F32, out: _F32) -> None: ...
def fill_blocks(
    kernels: Kernels,
    rotation: Rotation,
    center: _F32,
    store: Store,
    first: int,
    last: int,
    norms: _F32 | None,
    data: _F32,
    n_threads: int,
) -> float: ...
def assign(
    kernels: Kernels,
    metric: str,
    points: _F32,
    centroids: _F32,
    labels: _I32,
    distances: _F32 | None,
    n_threads: int,
    guesses: _I32 | None = None,
) -> float: ...
def cluster_sums(
    kernels: Kernels,
    points: _F32,
    labels: _I32,
    weights: _F64 | None,
    sums: _F64,
    totals: _F64,
    counts: _I64,
    n_threads: int,
) -> None: ...
def plus_plus(
    kernels: Kernels,
    points: _F32,
    weights: _F64 | None,
    uniforms: _F64,
    n_trials: int,
    begin: int,
    end: int,
    chosen: _I64,
    nearest: _F32,
    n_threads: int,
) -> None: ...
def plan(
    kernels: Kernels,
    scheme: str,
    pool: _I64,
    keys: _U64,
    k_dedicated: int,
    head: int,
    share_below: int,
    lanes: _I64,
    counts: _I32,
    n_threads: int,
) -> int: ...
def owners_of(
    kernels: Kernels, ids: _I64, key: _U64, n_lanes: int, share_below: int, lanes: _I32
) -> None: ...

@disjoint_base
class Graph:
    def __init__(
        self,
        metric: str,
        rows: _F32,
        links: _U32,
        upper_begin: _U32,
        upper: _U32,
        enter: int,
        labels: _I64 | None,
    ) -> None: ...
    def steer(self, codes: _I8, bits: int, base: _F32, center: _F32, step: _F32) -> None: ...
    def steer_rotated(self, rows: _F32, norms: _F32 | None) -> None: ...
    def search(
        self,
        kernels: Kernels,
        queries: _F32,
        rotated: _F32 | None,
        eps0: float,
        ef: int,
        rerank: int,
        allowed: _U64 | None,
        distances: _F32,
        ids: _I64,
        stats: _U64,
        n_threads: int,
        keys: _U64 | None = None,
        lane: int = 0,
        n_lanes: int = 1,
        share_below: int = 0,
    ) -> None: ...

@disjoint_base
class GraphStream:
    def __init__(
        self,
        graph: Graph,
        kernels: Kernels,
        query: _F32,
        rotated: _F32 | None,
        eps0: float,
        k: int,
        ef: int,
        rerank: int,
        allowed: _U64 | None,
    ) -> None: ...
    def advance(self, n: int, distances: _F32, ids: _I64) -> int: ...
    def ended(self) -> bool: ...
    def bound(self) -> float: ...
    def answer(self, distances: _F32, ids: _I64, stats: _U64) -> None: ...

def code_tokens(
    tokens: _F32,
    codes: _I8,
    scales: _F32,
    sums: _I32,
    lengths: _F64,
    residuals: _F64,
    n_threads: int,
) -> None: ...

@disjoint_base
class Documents:
    def __init__(
        self,
        tokens: _F32,
        begin: _I64,
        codes: _I8,
        scales: _F32,
        sums: _I32,
        longest: _F64,
        residuals: _F64,
        first_document: int = 0,
    ) -> None: ...
    def score(
        self,
        kernels: Kernels,
        tokens: _F32,
        begin: _I64,
        ids: _I64,
        distances: _F32,
        n_threads: int,
    ) -> None: ...
    def rescore(
        self,
        kernels: Kernels,
        tokens: _F32,
        begin: _I64,
        ids: _I64,
        distances: _F32,
        found: _I64,
        stats: _U64,
        n_threads: int,
    ) -> None: ...

@disjoint_base
class RowFile:
    def __init__(
        self,
        descriptor: int,
        offset: int,
        n: int,
        dim: int,
        numbers: str,
        unit: bool,
        cache_bytes: int,
    ) -> None: ...
    def score(
        self,
        kernels: Kernels,
        metric: str,
        queries: _F32,
        ids: _I64,
        distances: _F32,
        n_threads: int,
    ) -> tuple[str, int, int] | None: ...
    @property
    def bytes_read(self) -> int: ...
    @property
    def resident_bytes(self) -> int | None: ...

def split_lists(lists: _U8, block_bytes: int, n_blocks: _U32, blocks: _U8) -> bool: ...
