"""Coordination-free lanes: disjoint shares of one candidate pool, scored in parallel, merged.

Where to find what
------------------
`planning`    who scores what, from (key, pool) alone
`merging`     one answer from the lanes' answers
`search`      pool, plan, lanes and merge in one call
`overlap`     how much the lanes' work had in common
`law`         when partitioning pays, and what any setting will find
`controller`  a setting for each search, from running estimates
`ranks`       where in the pool candidates stand
`compare`     lanes beside their alternatives, measured
`report`      tables, plot and JSON of that
"""

from lanewise.lanes.controller import Controller, Decision
from lanewise.lanes.law import Advice, OnTime, advise, break_even, candidates, predict
from lanewise.lanes.merging import merge
from lanewise.lanes.overlap import mway_jaccard, pairwise_jaccard
from lanewise.lanes.planning import SCHEMES, Plan, plan, query_keys
from lanewise.lanes.search import LaneResult, LaneSearch
from lanewise.lanes.setting import Setting

__all__ = [
    "SCHEMES",
    "Advice",
    "Controller",
    "Decision",
    "LaneResult",
    "LaneSearch",
    "OnTime",
    "Plan",
    "Setting",
    "advise",
    "break_even",
    "candidates",
    "merge",
    "mway_jaccard",
    "pairwise_jaccard",
    "plan",
    "predict",
    "query_keys",
]
