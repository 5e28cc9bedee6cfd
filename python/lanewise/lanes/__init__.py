"""Coordination-free lanes: disjoint shares of one candidate pool, scored in parallel, merged.

Where to find what
------------------
`planning`  who scores what, from (key, pool) alone
`merging`   one answer from the lanes' answers
`search`    pool, plan, lanes and merge in one call
`overlap`   how much the lanes' work had in common
`compare`   lanes beside their alternatives, measured
`report`    tables, plot and JSON of that
"""

from lanewise.lanes.merging import merge
from lanewise.lanes.overlap import mway_jaccard, pairwise_jaccard
from lanewise.lanes.planning import SCHEMES, Plan, plan, query_keys
from lanewise.lanes.search import LaneResult, LaneSearch

__all__ = [
    "SCHEMES",
    "LaneResult",
    "LaneSearch",
    "Plan",
    "merge",
    "mway_jaccard",
    "pairwise_jaccard",
    "plan",
    "query_keys",
]
