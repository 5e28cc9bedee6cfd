"""Coordination-free lanes: disjoint shares of one candidate pool, scored in parallel, merged.

Where to find what
------------------
`planning`    who scores what, from (key, pool) alone
`merging`     one answer from the lanes' answers
`search`      pool, plan, lanes and merge in one call
`streaming`   lanes that begin before the pool is complete
`executors`   where lanes are scored: threads, an event loop, processes
`ray`         lanes on other machines; imported by name only
`running`     lanes in flight, and what came back in time
`overlap`     how much the lanes' work had in common
`law`         when partitioning pays, and what any setting will find
`controller`  a setting for each search, from running estimates
`telemetry`   metrics and spans of a sample of the queries
`querylog`    searches, one line a query
`replaying`   what another setting would have found for a log
`ranks`       where in the pool candidates stand
`compare`     lanes beside their alternatives, measured
`report`      tables, plot and JSON of that
"""

from lanewise.lanes.controller import Controller, Decision
from lanewise.lanes.executors import Async, LaneExecutor, Processes, Threads
from lanewise.lanes.law import Advice, OnTime, advise, break_even, candidates, predict
from lanewise.lanes.merging import merge
from lanewise.lanes.overlap import mway_jaccard, pairwise_jaccard
from lanewise.lanes.planning import SCHEMES, Plan, Setting, plan, query_keys
from lanewise.lanes.querylog import LoggedQueries, QueryLog, Record, read_log
from lanewise.lanes.replaying import Replay, replay
from lanewise.lanes.running import LaneReport
from lanewise.lanes.search import LaneResult, LaneSearch
from lanewise.lanes.streaming import StreamResult, StreamSearch
from lanewise.lanes.telemetry import Telemetry, minhash, minhash_error, minhash_jaccard

__all__ = [
    "SCHEMES",
    "Advice",
    "Async",
    "Controller",
    "Decision",
    "LaneExecutor",
    "LaneReport",
    "LaneResult",
    "LaneSearch",
    "LoggedQueries",
    "OnTime",
    "Plan",
    "Processes",
    "QueryLog",
    "Record",
    "Replay",
    "Setting",
    "StreamResult",
    "StreamSearch",
    "Telemetry",
    "Threads",
    "advise",
    "break_even",
    "candidates",
    "merge",
    "minhash",
    "minhash_error",
    "minhash_jaccard",
    "mway_jaccard",
    "pairwise_jaccard",
    "plan",
    "predict",
    "query_keys",
    "read_log",
    "replay",
]
