"""Coordination-free lanes: disjoint shares of one candidate pool, scored in parallel, merged.

Where to find what
------------------
`planning`   who scores what, from (key, pool) alone
`merging`    one answer from the lanes' answers
`search`     pool, plan, lanes and merge in one call
`streaming`  lanes that begin before the pool is complete
`executors`  where lanes are scored: threads, an event loop, processes
`running`    lanes in flight, and what came back in time
`overlap`    how much the lanes' work had in common
`compare`    lanes beside their alternatives, measured
`report`     tables, plot and JSON of that
"""

from lanewise.lanes.executors import Async, LaneExecutor, Processes, Threads
from lanewise.lanes.merging import merge
from lanewise.lanes.overlap import mway_jaccard, pairwise_jaccard
from lanewise.lanes.planning import SCHEMES, Plan, Setting, plan, query_keys
from lanewise.lanes.running import LaneReport
from lanewise.lanes.search import LaneResult, LaneSearch
from lanewise.lanes.streaming import StreamResult, StreamSearch

__all__ = [
    "SCHEMES",
    "Async",
    "LaneExecutor",
    "LaneReport",
    "LaneResult",
    "LaneSearch",
    "Plan",
    "Processes",
    "Setting",
    "StreamResult",
    "StreamSearch",
    "Threads",
    "merge",
    "mway_jaccard",
    "pairwise_jaccard",
    "plan",
    "query_keys",
]
