"""Exact-end vector search on SIMD kernels that give the same bits everywhere.

Where to find what
------------------
`Flat`            exact and early-terminated search over all rows
`KMeans`, `IVF`   clustering by tiled products, and inverted lists trained by it
`sklearn`         `KMeans` as a scikit-learn estimator; imported by name only
`HierarchicalKMeans`  k-means in two levels, for very many clusters
`ProductQuantizer`  vectors as the code words of their sub-vectors
`HNSW`            search of a graph that hnswlib built
`MaxSim`          late interaction: documents and queries of many vectors each
`RowsOnDisk`      exact distances to rows that stay in a file, within a budget of memory
`LaneSearch`      coordination-free lanes over such candidates; `lanes.plan`, `merge`
`RandomRotation`  the rotation under the scan
`datasets`        vectors from files
`io`              the file format of saved indexes
`oracle`          every answer once more, in plain NumPy
`kernels`         which instruction sets run
"""

from importlib.metadata import version as _version

from lanewise import datasets, io, kernels, lanes, oracle
from lanewise.cluster import KMeans
from lanewise.flat import Flat
from lanewise.hierarchical import HierarchicalKMeans
from lanewise.hnsw import HNSW
from lanewise.ivf import IVF
from lanewise.ivfpq import IVFPQ
from lanewise.lanes import LaneSearch, merge
from lanewise.maxsim import MaxSim
from lanewise.ondisk import RowsOnDisk
from lanewise.pq import ProductQuantizer
from lanewise.result import RangeResult, SearchResult
from lanewise.rotation import RandomRotation

__version__ = _version("lanewise")

__all__ = [
    "HNSW",
    "IVF",
    "IVFPQ",
    "Flat",
    "HierarchicalKMeans",
    "KMeans",
    "LaneSearch",
    "MaxSim",
    "ProductQuantizer",
    "RandomRotation",
    "RangeResult",
    "RowsOnDisk",
    "SearchResult",
    "datasets",
    "io",
    "kernels",
    "lanes",
    "merge",
    "oracle",
]
