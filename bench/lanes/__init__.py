"""What lanes are worth where scores are dear: ``python -m bench.lanes.NAME`` for each question.

Each prints beside lanes what the same budget gives without them: naive lanes whose duplicates are
removed, one index that scores the whole budget, hash shards. Schedules that are simulated say so.
"""
