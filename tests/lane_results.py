"""Results of lanes whose lateness is decided here, without running any."""

import numpy as np

import lanewise as lw
from lanewise.lanes import LaneReport, LaneResult, Setting

K_POOL = 64


class World:
    """Pools of some queries with the distances of all candidates: far ranks are often good too."""

    def __init__(self, n_queries=40, k_pool=K_POOL, seed=0, noise=12.0):
        rng = np.random.default_rng(seed)
        self.pool = rng.permuted(np.tile(np.arange(5 * k_pool), (n_queries, 1)), axis=1)[:, :k_pool]
        far = np.arange(k_pool) + noise * rng.standard_normal((n_queries, k_pool))
        self.distances = far.astype(np.float32)
        self.keys = rng.integers(0, 2**64, (n_queries, 2), dtype=np.uint64)
        self.n_queries = n_queries

    def best(self, k):
        """Which ranks the full pool answers."""
        order = np.argsort(self.distances, axis=1, kind="stable")[:, :k]
        best = np.zeros(self.pool.shape, dtype=bool)
        np.put_along_axis(best, order, True, axis=1)
        return best

    def ranks(self, k):
        """Share of the answers at each rank."""
        return self.best(k).mean(axis=0) / k

    def search(self, setting, reached, queries=None, k=10):
        """Search with lanes that get so far.

        `reached` is bool of shape (n_lanes,): on time or not at all; or int: candidates in time.
        """
        chosen = np.arange(self.n_queries) if queries is None else np.array(queries, dtype=int)
        pool, far = self.pool[chosen], self.distances[chosen]
        planned = setting.plan(pool, self.keys[chosen])
        reached = np.asarray(reached)
        if reached.dtype == bool:
            reached = reached * setting.k_lane
        scored = (planned.ids >= 0) & (np.arange(setting.k_lane) < reached[:, np.newaxis])
        rank = (pool[:, np.newaxis, np.newaxis] == planned.ids[..., np.newaxis]).argmax(axis=3)
        scores = np.take_along_axis(far[:, np.newaxis], rank, axis=2)
        scores = np.where(scored, scores, np.inf).astype(np.float32)
        n, width = len(chosen), setting.k_total
        done = np.where(scored, planned.ids, -1)
        merged = lw.merge(scores.reshape(n, width), done.reshape(n, width), k)
        lanes = []
        for lane in range(setting.n_lanes):
            wanted, done = int(planned.counts[:, lane].sum()), int(scored[:, lane].sum())
            seconds = 0.001 * (lane + 1) if done else None
            lanes.append(LaneReport(lane, wanted, done, done == wanted, seconds, None))
        stats = {
            **merged.stats,
            "scored": scored.sum(axis=(1, 2)),
            "plan_seconds": np.full(n, 2e-7),
        }
        return LaneResult(
            merged.distances,
            merged.ids,
            stats,
            plan=planned,
            lane_distances=scores,
            scored=scored,
            pool=pool,
            keys=self.keys[chosen],
            estimated=np.zeros(merged.ids.shape, dtype=bool),
            lanes=tuple(lanes),
        )

    def drive(self, setting, masks, queries=None):
        """Quality of each query with its own lanes on time, shape (n_queries, n_lanes)."""
        chosen = np.arange(len(masks)) if queries is None else np.array(queries, dtype=int)
        found = np.empty(len(masks))
        for mask in np.unique(masks, axis=0):
            same = (masks == mask).all(axis=1)
            result = self.search(setting, mask, chosen[same])
            found[same] = self.quality(result, chosen[same])
        return found

    def quality(self, result, queries=None):
        """Share of the full pool's answer that the result has, for each query."""
        chosen = np.arange(self.n_queries) if queries is None else np.array(queries, dtype=int)
        k = result.ids.shape[1]
        best = np.where(self.best(k)[chosen], self.pool[chosen], -2)
        return (result.ids[:, :, np.newaxis] == best[:, np.newaxis]).any(axis=2).sum(axis=1) / k


def settings(**changes):
    """The usual setting, changed."""
    return Setting(**{"n_lanes": 4, "k_lane": 16, **changes})
