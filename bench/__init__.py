"""Benchmarks: one file for each kernel and each trip, peers beside us in the same run."""
