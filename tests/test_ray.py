"""Lanes on Ray: three nodes on this machine, whose actors and nodes are killed in mid-flight.

Needs Ray, which is no part of the test extra; without it one test is left.
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cases import assert_same_bytes

import lanewise as lw
from lanewise.lanes import merge, plan, query_keys

# Some versions of Ray leave the files of their logs open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

N_LANES, K_LANE, K = 4, 8, 5
DIM = 8
# Many actors on few cores.
LIGHT = {"num_cpus": 0.01}


def test_ray_is_imported_by_name_only():
    code = "import lanewise, sys; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys; sys.modules['ray'] = None; import lanewise.lanes.ray"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "lanewise[ray]"' in failed.stderr


def left_over(folder):
    """Processes that the cluster of a folder began."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if folder.encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:  # it has ended, or is somebody else's
            continue
    return set(found) - {str(os.getpid())}


def until(condition, seconds=20.0):
    """Wait for what comes to pass after a while, and say what it was."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def cluster():
    """Three nodes; all that they began is gone in the end."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Paths of sockets are short.
    folder = tempfile.mkdtemp(prefix="lw", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # By default Ray says after a second that an actor has died, after 15 that a node has.
        patch.setenv("RAY_timeout_ms_task_wait_for_death_info", "100")
        patch.setenv("RAY_health_check_initial_delay_ms", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "2")
        node = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node, shutdown_at_exit=False)
        try:
            for _ in range(2):
                cluster.add_node(**node)
            ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
    until(lambda: not left_over(folder), 60.0)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def on_ray(cluster):
    """The module under test."""
    from lanewise.lanes import ray as on_ray

    return on_ray


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A graph, its rows and three shards of them, and queries."""
    X = np.random.default_rng(0).standard_normal((2000, DIM), dtype=np.float32)
    folder = tmp_path_factory.mktemp("indexes")
    lw.Flat(DIM).add(X).save(folder / "rows.lw")
    lw.HNSW.build(X, M=8, ef_construction=60).save(folder / "graph.lw")
    for shard in range(3):
        ids = np.arange(shard, len(X), 3)
        lw.Flat(DIM).add(X[ids], ids).save(folder / f"shard{shard}.lw")
    return folder, X[:20] + np.float32(0.01)


def opener(files, kind, name):
    return functools.partial(kind.load, files[0] / name, mmap=True)


def sleeper():
    """What opens a scorer that takes as many seconds as the query says. Sent by value."""

    def open_scorer():
        def score(query, ids):
            time.sleep(query)
            return ids * 0.5

        return score

    return open_scorer


def kill(places, lane, how=signal.SIGKILL):
    """Do something to the processes of a lane, and return which those were."""
    processes = {place.process for place in places if place.lane == lane}
    assert processes
    for process in processes:
        os.kill(process, how)
    return processes


IDS = np.array([[4, -1, 6]])
HALVES = [[2.0, np.inf, 3.0]]


@pytest.mark.slow
def test_scores_what_is_planned(on_ray, files):
    graph, flat = opener(files, lw.HNSW, "graph.lw")(), opener(files, lw.Flat, "rows.lw")()
    Q = files[1]
    ids = plan(graph.pool(Q, N_LANES * K_LANE), query_keys(Q), n_lanes=N_LANES, k_lane=K_LANE).ids
    with on_ray.RayLanes(opener(files, lw.Flat, "rows.lw"), N_LANES, options=LIGHT) as lanes:
        futures = [lanes.submit(r, Q, np.ascontiguousarray(ids[:, r])) for r in range(N_LANES)]
        scores = np.stack([future.result(30) for future in futures], axis=1)
        assert_same_bytes(scores, flat.score(Q, ids.reshape(len(Q), -1)).reshape(ids.shape))
        merged = merge(scores.reshape(len(Q), -1), ids.reshape(len(Q), -1), K)
        assert_same_bytes(merged.ids, flat.rescore(Q, ids.reshape(len(Q), -1), K).ids)
        # More than goes with a call, asked for from within an answer, as a chain of steps does.
        big = np.repeat(Q, 2000, axis=0)
        many = np.repeat(ids[:, 0], 2000, axis=0)
        chained = []
        first = lanes.submit(0, big, many)
        first.add_done_callback(lambda done: chained.append(lanes.submit(1, big, many)))
        expected = np.repeat(scores[:, 0], 2000, axis=0)
        assert_same_bytes(first.result(30), expected)
        assert_same_bytes(until(lambda: chained)[0].result(30), expected)
        nodes = {place.node for place in lanes.places()}
        assert len(nodes) == 3
        with pytest.raises(ValueError, match="ids: 9999 is not in the index"):
            lanes.submit(0, Q[:1], np.array([[9999]])).result(30)
        with pytest.raises(ValueError, match="lane: expected"):
            lanes.submit(N_LANES, Q, ids[:, 0])
    with pytest.raises(RuntimeError, match="closed"):
        lanes.submit(0, Q, ids[:, 0])
    lanes.close()


@pytest.mark.slow
def test_a_killed_actor_costs_what_it_was_asked_and_comes_back(on_ray, monkeypatch):
    from ray.exceptions import ActorDiedError, RayActorError

    with on_ray.RayLanes(sleeper(), 2, options=LIGHT) as lanes:
        places, actors = lanes.places(), lanes._actors
        look = actors._look
        monkeypatch.setattr(actors, "_look", lambda lane, replica: None)
        lost, kept = lanes.submit(0, [60.0], IDS), lanes.submit(1, [0.5], IDS)
        killed = kill(places, 0)
        assert kept.result(30).tolist() == HALVES
        assert isinstance(lost.exception(10), RayActorError)
        # Until somebody has looked, it is not asked again.
        at_once = lanes.submit(0, [0.0], IDS)
        assert at_once.done()
        assert at_once.exception() is lost.exception()
        monkeypatch.setattr(actors, "_look", look)
        look(0, actors.lanes[0][0])

        def answer():
            # Fast, whether it is there again or not.
            asked = lanes.submit(0, [0.0], IDS)
            began = time.monotonic()
            error = asked.exception(10)
            assert time.monotonic() - began < 3
            assert error is None or isinstance(error, RayActorError)
            return None if error else asked.result().tolist()

        assert until(answer) == HALVES
        assert not killed & {place.process for place in lanes.places()}

        # One that Ray will not begin again is begun again by us.
        import ray

        ray.kill(actors.lanes[1][0].handle)
        until(lambda: isinstance(lanes.submit(1, [0.0], IDS).exception(10), ActorDiedError))
        until(lambda: lanes.submit(1, [0.0], IDS).exception(10) is None)


@pytest.mark.slow
def test_one_that_does_not_answer_holds_nobody_up(on_ray):
    with on_ray.RayLanes(sleeper(), 2, options=LIGHT) as lanes:
        stopped = kill(lanes.places(), 0, signal.SIGSTOP)
        try:
            began = time.monotonic()
            asked = [lanes.submit(0, [seconds], IDS) for seconds in (0.0, 0.0, 60.0, 60.0)]
            assert lanes.submit(1, [0.0], IDS).result(30).tolist() == HALVES
            assert not any(future.done() for future in asked)
            assert all(future.cancel() for future in asked[1:])
            assert not lanes._actors.lanes[0][0].waiting
            assert time.monotonic() - began < 5
        finally:
            for process in stopped:
                os.kill(process, signal.SIGCONT)
        # What was cancelled while it waited is not done.
        assert lanes.submit(0, [0.0], IDS).result(30).tolist() == HALVES
        assert asked[0].result(30).tolist() == HALVES
        with pytest.raises(CancelledError):
            asked[1].result()

        # One that is cancelled while it runs ends behind the query that it is at.
        running = lanes.submit(1, [0.1] * 300, np.repeat(IDS, 300, axis=0))
        time.sleep(0.3)
        assert running.cancel()
        assert lanes.submit(1, [0.0], IDS).result(20).tolist() == HALVES


@pytest.mark.slow
def test_a_replica_takes_over(on_ray):
    from ray.exceptions import ActorUnavailableError

    with on_ray.RayLanes(sleeper(), 1, n_replicas=2, options=LIGHT) as lanes:
        places = lanes.places()
        assert len({place.process for place in places}) == 2
        # The least busy one is asked, so both are.
        asked = [lanes.submit(0, [0.7], IDS) for _ in range(2)]
        os.kill(places[0].process, signal.SIGKILL)
        assert [future.result(30).tolist() for future in asked] == [HALVES] * 2

        # One that is lost is not asked until it is there again.
        replicas = lanes._actors.lanes[0]
        until(lambda: not any(replica.loss for replica in replicas))
        loss = ActorUnavailableError("lost", None)
        replicas[0].loss = loss
        asked = [lanes.submit(0, [0.3], IDS) for _ in range(2)]
        assert (replicas[0].in_flight, replicas[1].in_flight) == (0, 2)
        replicas[1].loss = loss
        at_once = lanes.submit(0, [0.0], IDS)
        assert at_once.done()
        assert at_once.exception() is loss
        assert [future.result(30).tolist() for future in asked] == [HALVES] * 2
        lanes._actors._look(0, replicas[0])
        until(lambda: replicas[0].loss is None)
        assert lanes.submit(0, [0.0], IDS).result(30).tolist() == HALVES


@pytest.mark.slow
def test_lane_search_over_actors(on_ray, files):
    graph, flat = opener(files, lw.HNSW, "graph.lw")(), opener(files, lw.Flat, "rows.lw")()
    Q = files[1]
    options = {"n_lanes": N_LANES, "k_lane": K_LANE, "step": 3, "on_error": "contain"}
    expected = lw.LaneSearch(graph, flat, **options).search(Q, K)
    with on_ray.RayLanes(opener(files, lw.Flat, "rows.lw"), N_LANES, options=LIGHT) as lanes:
        search = lw.LaneSearch(graph, lanes, **options)
        found = search.search(Q, K)
        assert_same_bytes(found.ids, expected.ids)
        assert_same_bytes(found.lane_distances, expected.lane_distances)
        assert found.missing == ()
        stopped = kill(lanes.places(), 1, signal.SIGSTOP)
        try:
            found = search.search(Q, K, deadline=1.0)
        finally:
            for process in stopped:
                os.kill(process, signal.SIGCONT)
        assert found.missing == (1,)
        assert (found.coverage == 1 - 1 / N_LANES).all()
        assert_same_bytes(found.ids, expected.without(1).ids)
        # Nothing of it is left to do when it goes on.
        assert search.search(Q, K).missing == ()


@pytest.mark.slow
def test_lanes_that_collect_for_themselves(on_ray, files):
    graph, flat = opener(files, lw.HNSW, "graph.lw")(), opener(files, lw.Flat, "rows.lw")()
    Q = files[1]
    options = {"n_lanes": N_LANES, "alpha": 0.5, "key": 7}

    def same(found, pools):
        ids = np.concatenate(pools, axis=1)
        expected = merge(flat.score(Q, ids), ids, found.ids.shape[1])
        assert_same_bytes(found.ids, expected.ids)
        assert_same_bytes(found.distances, expected.distances)
        assert found.missing == ()
        assert not found.degraded
        assert all(report.seconds > 0 for report in found.lanes)
        assert (found.coverage == 1).all()
        assert (found.stats["scored"] == (ids >= 0).sum(axis=1)).all()

    pools = [graph.pool(Q, K_LANE, lane=r, **options) for r in range(N_LANES)]
    openers = opener(files, lw.HNSW, "graph.lw"), opener(files, lw.Flat, "rows.lw")
    with on_ray.RaySearch(openers[0], **options, k_lane=K_LANE, options=LIGHT) as search:
        # More than a lane has: all that they collect.
        same(search.search(Q, N_LANES * K_LANE), pools)
        # What does not go with a call.
        many = search.search(np.repeat(Q, 300, axis=0), K)
        assert_same_bytes(many.ids, np.repeat(search.search(Q, K).ids, 300, axis=0))
        assert search.search(Q[:0], K).ids.shape == (0, K)
        assert search.search(Q[0], 0).ids.shape == (1, 0)
        for wrong, match in (([[1.0]], "queries: expected"), ([[np.nan] * DIM], "queries: .*nan")):
            with pytest.raises(ValueError, match=match):
                search.search(wrong, K)
        with pytest.raises(ValueError, match="k: expected"):
            search.search(Q, -1)
        # Every lane refuses it: no lane was lost.
        with pytest.raises(ValueError, match="queries: expected vectors"):
            search.search(np.full((1, DIM), 1e30), K)
        assert search.search(Q, K, deadline=0.0).missing == tuple(range(N_LANES))
    with on_ray.RaySearch(*openers, **options, k_lane=K_LANE, options=LIGHT) as search:
        same(search.search(Q, N_LANES * K_LANE), pools)
    shards = [opener(files, lw.Flat, f"shard{shard}.lw") for shard in range(3)]
    with on_ray.RaySearch(shards, k_lane=K, options=LIGHT) as search:
        same(search.search(Q, K), [shard().pool(Q, K) for shard in shards])
        assert_same_bytes(search.search(Q, K).ids, flat.search(Q, K).ids)
    # One that cannot answer: it has another dimension.
    shards[2] = lambda: lw.Flat(DIM + 1)
    with on_ray.RaySearch(shards, k_lane=K, options=LIGHT) as search:
        found = search.search(Q, K)
        assert found.missing == (2,)
        assert isinstance(found.lanes[2].error, ValueError)
        search.on_error = "raise"
        with pytest.raises(ValueError, match="queries: expected"):
            search.search(Q, K)


@pytest.mark.slow
def test_refuses_what_cannot_be(on_ray, files, tmp_path):
    rows = opener(files, lw.Flat, "rows.lw")
    missing = functools.partial(lw.Flat.load, tmp_path / "none.lw")
    with pytest.raises(FileNotFoundError, match=r"none\.lw"):
        on_ray.RayLanes(missing, 1, options=LIGHT)
    with pytest.raises(TimeoutError, match=r"expected 1 actors .* within 0\.5 s, got 0"):
        on_ray.RayLanes(rows, 1, options={"num_cpus": 1000}, timeout=0.5)
    for kind in on_ray.RayLanes, on_ray.RaySearch:
        with pytest.raises(TypeError, match="expected a callable that opens an index"):
            kind("rows.lw")
        with pytest.raises(ValueError, match="expected one, or one for each of 3 lanes, got 2"):
            kind([rows, rows], n_lanes=3)
        with pytest.raises(TypeError, match=r"open_.*: expected a callable that opens an index"):
            kind([rows, 3], n_lanes=2)
        with pytest.raises(ValueError, match="n_replicas: expected"):
            kind(rows, n_replicas=0)
        with pytest.raises(TypeError, match="options: expected a dict"):
            kind(rows, options=3)
    for wrong in (
        {"k_lane": 0},
        {"alpha": 2.0},
        {"deadline": -1},
        {"on_error": "ignore"},
        {"key": -1},
        {"n_threads": 0},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
            on_ray.RaySearch(rows, **wrong)


def graph_with_a_gate(path, gate):
    """What opens a graph whose lanes wait until a file is there. Sent by value."""

    def open_index():
        graph = lw.HNSW.load(path, mmap=True)

        class Gated:
            dim = graph.dim

            def collect(self, *arguments, **options):
                while not gate.exists():
                    time.sleep(0.02)
                return graph.collect(*arguments, **options)

        return Gated()

    return open_index


def has_ended(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
def test_a_node_that_dies_costs_its_share_of_coverage(cluster, on_ray, files, tmp_path):
    from ray.exceptions import RayActorError

    graph = opener(files, lw.HNSW, "graph.lw")()
    Q, gate = files[1], tmp_path / "gate"
    open_index = graph_with_a_gate(files[0] / "graph.lw", gate)
    with on_ray.RaySearch(open_index, k_lane=K_LANE, options={"num_cpus": 1}) as search:
        node = next(iter(cluster.worker_nodes))
        dying = [place for place in search.places() if place.node == node.node_id]
        lost = {place.lane for place in dying}
        assert 0 < len(lost) < N_LANES
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(search.search, Q, K, deadline=60.0)
            time.sleep(0.1)
            cluster.remove_node(node, allow_graceful=False)
            until(lambda: all(has_ended(place.process) for place in dying))
            gate.touch()
            found = found.result()
        assert set(found.missing) == lost
        assert found.degraded
        assert (found.coverage == 1 - len(lost) / N_LANES).all()
        for report in found.lanes:
            gone = report.lane in lost
            assert report.on_time != gone
            assert isinstance(report.error, RayActorError) == gone
        kept = [
            graph.collect(Q, K_LANE, lane=r, n_lanes=N_LANES)
            for r in range(N_LANES)
            if r not in lost
        ]
        both = (np.concatenate(arrays, axis=1) for arrays in zip(*kept, strict=True))
        expected = merge(*both, K)
        assert_same_bytes(found.ids, expected.ids)
        assert_same_bytes(found.distances, expected.distances)
        # Two nodes have room for all lanes.
        until(lambda: not search.search(Q, K).degraded)
    with pytest.raises(RuntimeError, match="closed"):
        search.search(Q, K)
