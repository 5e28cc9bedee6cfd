"""Threads: how many, side by side, across fork and spawn, and stopped by Ctrl-C."""

import concurrent.futures
import contextlib
import copy
import itertools
import linecache
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cases
import numpy as np
import pytest
from cases import assert_same_bytes

import lanewise as lw
from lanewise import threads
from lanewise.cluster import assign
from lanewise.lanes import plan
from lanewise.threads import default_threads, resolve_threads

PACKAGE = str(Path(lw.__file__).parent)


# ------------------------------------------------------------------------------------ how many


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight CPUs and an empty file system; returns how to write its files."""
    monkeypatch.delenv("LANEWISE_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "Path", lambda path: tmp_path / str(path).lstrip("/"))
    threads._cgroup_cpus.cache_clear()

    def write(path, text):
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    yield write
    threads._cgroup_cpus.cache_clear()


def test_without_limits_there_is_a_thread_for_each_cpu(machine, monkeypatch):
    assert default_threads() == 8
    assert resolve_threads(None) == 8
    assert resolve_threads(3) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5}, raising=False)
    assert default_threads() == 1


def test_where_affinity_is_unknown_the_cpus_count(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert default_threads() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_threads() == 1


V2 = "0::/user/job\n"
V1 = "12:memory:/other\n3:cpu,cpuacct:/user/job\n1:name=systemd:/x\n"
FILES = {
    "no limit": ({"/sys/fs/cgroup/user/job/cpu.max": "max 100000\n"}, V2, 8),
    "two CPUs": ({"/sys/fs/cgroup/user/job/cpu.max": "200000 100000\n"}, V2, 2),
    "rounded up": ({"/sys/fs/cgroup/user/job/cpu.max": "210000 100000\n"}, V2, 3),
    "less than one": ({"/sys/fs/cgroup/user/job/cpu.max": "10000 100000\n"}, V2, 1),
    "more than there are": ({"/sys/fs/cgroup/user/job/cpu.max": "990000 100000\n"}, V2, 8),
    "the group above": ({"/sys/fs/cgroup/user/cpu.max": "300000 100000\n"}, V2, 3),
    "the root": ({"/sys/fs/cgroup/cpu.max": "300000 100000\n"}, V2, 3),
    "each level binds": (
        {
            "/sys/fs/cgroup/user/cpu.max": "200000 100000\n",
            "/sys/fs/cgroup/user/job/cpu.max": "400000 100000\n",
        },
        V2,
        2,
    ),
    "nonsense": ({"/sys/fs/cgroup/user/job/cpu.max": "many\n"}, V2, 8),
    "not mine": ({"/sys/fs/cgroup/user/other/cpu.max": "100000 100000\n"}, V2, 8),
    "in a container": ({"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, "0::/\n", 2),
    "outside its namespace": ({"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, "0::/../x\n", 2),
    "first version": (
        {
            "/sys/fs/cgroup/cpu/user/job/cpu.cfs_quota_us": "250000\n",
            "/sys/fs/cgroup/cpu/user/job/cpu.cfs_period_us": "100000\n",
        },
        V1,
        3,
    ),
    "first version, no limit": (
        {
            "/sys/fs/cgroup/cpu/user/job/cpu.cfs_quota_us": "-1\n",
            "/sys/fs/cgroup/cpu/user/job/cpu.cfs_period_us": "100000\n",
        },
        V1,
        8,
    ),
    "both versions": (
        {
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "/sys/fs/cgroup/user/job/cpu.max": "300000 100000\n",
        },
        V1 + V2,
        3,
    ),
    "no such files": ({}, V2 + V1, 8),
}


@pytest.mark.parametrize("name", FILES)
def test_control_groups_limit(machine, name):
    files, membership, expected = FILES[name]
    machine("/proc/self/cgroup", membership)
    for path, text in files.items():
        machine(path, text)
    assert default_threads() == expected


def test_affinity_limits_within_a_control_group(machine, monkeypatch):
    machine("/proc/self/cgroup", V2)
    machine("/sys/fs/cgroup/user/job/cpu.max", "400000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2}, raising=False)
    assert default_threads() == 2


def test_the_variable_decides(machine, monkeypatch):
    machine("/proc/self/cgroup", V2)
    machine("/sys/fs/cgroup/user/job/cpu.max", "200000 100000")
    for text, expected in (("3", 3), (" 12 ", 12), ("1", 1), ("", 2), ("  ", 2)):
        monkeypatch.setenv("LANEWISE_NUM_THREADS", text)
        assert default_threads() == expected
    assert resolve_threads(5) == 5


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "+2", "many", "1,2", "0x2", "1e1"])
def test_a_wrong_variable_is_named(monkeypatch, text):
    index = lw.Flat(2).add([[1.0, 2.0]])
    monkeypatch.setenv("LANEWISE_NUM_THREADS", text)
    calls = [
        default_threads,
        lambda: index.search([1.0, 2.0]),
        lambda: index.add([[1.0, 2.0]]),
        lambda: assign([[1.0]], [[1.0]]),
        lambda: plan([1], 1, n_lanes=1, k_lane=1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^LANEWISE_NUM_THREADS: expected"):
            call()
    assert len(index.search([1.0, 2.0], n_threads=1).ids) == 1


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, float("nan")])
def test_a_wrong_number_is_named(value):
    error = TypeError if not isinstance(value, int) or value is True else ValueError
    with pytest.raises(error, match=r"^n_threads: expected an integer"):
        resolve_threads(value)


@pytest.mark.parametrize("n_threads", [10**5, 2**40, 2**64])
def test_absurd_numbers_of_threads_are_refused_or_harmless(n_threads):
    """No allocation and no foreign error may come of them."""
    X = np.eye(3, dtype=np.float32)
    index = lw.Flat(3).add(X)
    calls = {
        "search": lambda: index.search(X, 1, n_threads=n_threads).ids.ravel().tolist(),
        "score": lambda: index.score(X, [[0], [1], [2]], n_threads=n_threads).argmin(1).tolist(),
        "assign": lambda: assign(X, X, n_threads=n_threads)[0].tolist(),
        "add": lambda: len(lw.Flat(3).add(X, n_threads=n_threads)),
        "transform": lambda: lw.RandomRotation(3).transform(X, n_threads=n_threads).ndim,
        "plan": lambda: (
            plan(X.astype(int)[:, :1], 1, n_lanes=1, k_lane=1, n_threads=n_threads).n_lanes
        ),
    }
    expected = {
        "search": [0, 1, 2],
        "score": [0, 0, 0],
        "assign": [0, 1, 2],
        "add": 3,
        "transform": 2,
        "plan": 1,
    }
    for name, call in calls.items():
        told = value_or_refusal(call)
        if isinstance(told, str):
            assert told.startswith("n_threads: "), name
        else:
            assert told == expected[name], name


def value_or_refusal(call):
    try:
        return call()
    except ValueError as error:
        return str(error)


COUNT = """
import lanewise as lw, numpy as np, sys
def count():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Threads:"))
X = np.eye(64, dtype=np.float32)
index = lw.Flat(64, n_threads=1)
before = count()
index.add(X)
index.search(X)
alone = count()
index.search(X, n_threads=3)
index.search(X, n_threads=2)
print(alone - before, count() - alone)
index = lw.Flat(64).add(X)
index.search(X)
print(count() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.slow
def test_as_many_threads_as_were_asked_for():
    for variable, default in (("1", 2), ("2", 2), ("5", 4)):
        run = subprocess.run(
            [sys.executable, "-c", COUNT],
            env={**os.environ, "LANEWISE_NUM_THREADS": variable},
            stdout=subprocess.PIPE,
            text=True,
            timeout=300,
            check=True,
        )
        # The caller works too, and hired threads stay.
        assert run.stdout.split() == ["0", "2", str(default)], variable


# ---------------------------------------------------------------------------------- side by side


def some_index(rng, n=3000, dim=8):
    X = rng.standard_normal((n, dim), dtype=np.float32)
    return lw.Flat(dim).add(X), X


def answers(index, Q, n_threads):
    result = index.search(Q, 10, n_threads=n_threads)
    return [part.tobytes() for part in result]


def test_many_threads_share_one_index(rng):
    index, X = some_index(rng)
    Q = [X[i : i + 1 + i % 3] for i in range(24)]
    expected = [answers(index, q, 1) for q in Q]
    wrong = []
    barrier = threading.Barrier(12)

    def search(which):
        barrier.wait(timeout=60)
        for i in range(10):
            j = (which + i) % 24
            if answers(index, Q[j], 1 + i % 3) != expected[j]:
                wrong.append(j)

    workers = [threading.Thread(target=search, args=(i,)) for i in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_different_calls_share_the_threads(rng):
    """Scans, rotations, clusterings and plans at once, each with its own answer."""
    index, X = some_index(rng)
    rotation = lw.RandomRotation(8)
    pool = np.argsort(X[:600], axis=1)
    calls = [
        lambda: index.search(X[:50], 5, n_threads=3).ids,
        lambda: rotation.transform(X, n_threads=2),
        lambda: assign(X, X[:40], n_threads=3)[1],
        lambda: plan(pool, 7, n_lanes=2, k_lane=4, n_threads=3).ids,
        lambda: lw.KMeans(5, max_iter=3, n_threads=2).fit(X).cluster_centers_,
        lambda: lw.Flat(8, n_threads=2).add(X).search(X[:3], 4).distances,
    ]
    expected = [call().tobytes() for call in calls]
    wrong = []

    def run(which):
        for i in range(5):
            j = (which + i) % len(calls)
            if calls[j]().tobytes() != expected[j]:
                wrong.append(j)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


# ------------------------------------------------------------------------------- Ctrl-C, in calls

needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")


@contextlib.contextmanager
def ctrl_c_inside_a_call():
    """A signal comes every 20 ms; one that finds Python at one instruction for the third time
    becomes a Ctrl-C.

    A call that does not look for signals before it is done lets its caller see one afterwards, and
    no third one: then nothing is raised.
    """
    places = []

    def handler(number, frame):
        places.append((id(frame), frame.f_lasti))
        if len(places) > 2 and len(set(places[-3:])) == 1:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@needs_timer
@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_stops_a_search_of_many_queries(rng, n_threads):
    index, X = some_index(rng, 20_000, 64)
    slow = lw.Flat(64, kernels="scalar", n_threads=n_threads).add(X)
    expected = answers(index, X[:3], n_threads)
    with ctrl_c_inside_a_call(), pytest.raises(KeyboardInterrupt):
        slow.search(X[:1000], 10)
    assert answers(slow, X[:3], n_threads) == expected


@needs_timer
@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_stops_a_search_of_one_query(n_threads):
    """Each row is nearer than those before it, so that a scan of short rows is long.

    It is done in many loops, each too short for a look at the clock of its own.
    """
    X = np.arange(3_000_000, 0, -1, dtype=np.float32)[:, None]
    index = lw.Flat(1, n_threads=n_threads).add(X)
    with ctrl_c_inside_a_call(), pytest.raises(KeyboardInterrupt):
        index.search([0.0], 30_000)
    assert index.search([0.0], 2).ids.tolist() == [[2_999_999, 2_999_998]]


@needs_timer
def test_ctrl_c_stops_scoring(rng):
    _, X = some_index(rng, 20_000, 64)
    index = lw.Flat(64, kernels="scalar", n_threads=2).add(X)
    ids = np.tile(np.arange(20_000), (600, 1))
    expected = index.score(X[:3], ids[:3, :50])
    with ctrl_c_inside_a_call(), pytest.raises(KeyboardInterrupt):
        index.score(X[:600], ids)
    assert_same_bytes(index.score(X[:3], ids[:3, :50]), expected)


@needs_timer
@pytest.mark.parametrize("method", ["score", "rescore"])
def test_ctrl_c_stops_late_interaction(rng, method):
    documents = rng.standard_normal((400, 60, 64), dtype=np.float32)
    index = lw.MaxSim(64, kernels="scalar", n_threads=2).add(documents)
    ids = np.tile(np.arange(400), (300, 1))
    queries = documents[:300, :30]
    expected = index.score(queries[:3], ids[:3, :10])
    with ctrl_c_inside_a_call(), pytest.raises(KeyboardInterrupt):
        getattr(index, method)(queries, ids)
    assert_same_bytes(index.score(queries[:3], ids[:3, :10]), expected)


@needs_timer
@pytest.mark.parametrize(
    ("storage", "rotation", "n", "dim"), [("f32", "fwht", 6000, 4095), ("sq8", "pca", 8000, 256)]
)
def test_ctrl_c_stops_adding_and_nothing_is_added(rng, storage, rotation, n, dim):
    wide = rng.standard_normal((n, dim), dtype=np.float32)
    how = {"storage": storage, "rotation": rotation, "kernels": "scalar", "n_threads": 1}
    index = lw.Flat(dim, **how).add(wide[:10])
    expected = answers(index, wide[:3], 1)
    with ctrl_c_inside_a_call(), pytest.raises(KeyboardInterrupt):
        index.add(wide)
    assert len(index) == 10
    assert answers(index, wide[:3], 1) == expected
    index.add(wide[10:20])
    assert answers(index, wide[:3], 1) == answers(lw.Flat(dim).add(wide[:20]), wide[:3], 1)


@needs_timer
@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_stops_clustering_and_the_model_is_as_it_was(rng, n_threads):
    X = rng.standard_normal((40_000, 64), dtype=np.float32)
    with ctrl_c_inside_a_call(), pytest.raises(KeyboardInterrupt):
        assign(X, X[:300], kernels="scalar", n_threads=n_threads)
    model = lw.KMeans(300, init=X[:300], kernels="scalar", n_threads=n_threads)
    unfitted = dict(vars(model))
    with ctrl_c_inside_a_call(), pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert vars(model) == unfitted
    model.fit(X[:300])
    fitted = dict(vars(model))
    with ctrl_c_inside_a_call(), pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert vars(model) == fitted
    assert model.predict(X[:300]).tolist() == list(range(300))


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent does with it
import numpy as np
import lanewise as lw
X = np.random.default_rng(0).standard_normal((20_000, 64), dtype=np.float32)
index = lw.Flat(64, kernels="scalar").add(X)
model = lw.KMeans(300, init=X[:300], tol=0, max_iter=10**6, kernels="scalar")
expected = index.search(X[:3], 5).ids.tolist()
call = {"search": lambda: index.search(X, 10), "fit": lambda: model.fit(X)}[sys.argv[1]]
print("ready", flush=True)
try:
    while True:
        call()
except KeyboardInterrupt:
    assert index.search(X[:3], 5).ids.tolist() == expected
    # As it was, or as a whole iteration has left it: how many there were time for, nobody knows.
    if hasattr(model, "labels_"):
        assert sys.argv[1] == "fit" and model.n_iter_ >= 1
        assert model.predict(X).tolist() == model.labels_.tolist()
        assert model.score(X) == -model.inertia_
    print("whole", flush=True)
    raise
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to a process there")
@pytest.mark.parametrize("call", ["search", "fit"])
def test_ctrl_c_ends_a_program(call):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, call],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        # The bound is for a machine that has a bad day; the call alone would take many minutes.
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert out == "whole\n", err
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT


# --------------------------------------------------------------------- Ctrl-C, between the lines


def interrupt_at(step, call):
    """Run a call and raise KeyboardInterrupt at its step-th line in the package.

    Returns whether it came to that. Lines that enter or leave a `with` are left out: Python sees
    no signal between the end of its body and the call of __exit__, a tracer does.
    """
    left = step

    def trace_lines(frame, event, arg):
        nonlocal left
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event in ("line", "return") and not line.lstrip().startswith("with "):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace_lines

    def trace_calls(frame, event, arg):
        return trace_lines if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(trace_calls)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("sizes", [(40, 30), (100, 1), (0, 5)])
@pytest.mark.parametrize("kind", ["flat", "widened", "ivf"])
def test_an_interrupted_add_is_whole_or_nothing(rng, kind, sizes, metric):
    """Wherever it is interrupted, and what is added afterwards is right either way."""
    first, second = sizes
    X = cases.integers(rng, (first + second + 20, 3), 50)

    empty = lw.IVF(3, 4, metric, n_probe=4).train(X) if kind == "ivf" else lw.Flat(3, metric)

    def make(*parts):
        index = copy.deepcopy(empty)
        for part in parts:
            index.add(part)
        return index

    old, new, later = X[:first], X[first : first + second], X[first + second :]
    old = old.astype(np.int8) if kind == "widened" else old
    after = {
        len(index): (answers(index, X[:5], 1), answers(index.add(later), X[:5], 1))
        for index in (make(old), make(old, new))
    }
    outcomes = set()
    for step in itertools.count(1):
        index = make(old)
        interrupted = interrupt_at(step, lambda index=index: index.add(new, n_threads=1))
        n = len(index)
        now, then = after[n]
        assert answers(index, X[:5], 1) == now, step
        if kind == "ivf":
            assert index.list_sizes.sum() == n, step
        index.add(later)
        assert len(index) == n + 20, step
        assert answers(index, X[:5], 1) == then, step
        outcomes.add((interrupted, n))
        if not interrupted:
            break
    assert (True, first) in outcomes
    assert (False, first + second) in outcomes
    assert step > 20


def test_an_interrupted_fit_leaves_a_whole_iteration(rng):
    """Wherever it is interrupted: as it was, or as after any of the iterations."""
    X, Y = (rng.standard_normal((60, 4), dtype=np.float32) for _ in range(2))
    names = ("cluster_centers_", "labels_", "inertia_", "n_iter_", "n_features_in_")

    def state(model):
        return [np.asarray(getattr(model, name)).tobytes() for name in names]

    options = {"n_threads": 1, "tol": 0}
    known = [state(lw.KMeans(5, **options).fit(X))]
    n_iter = lw.KMeans(5, **options).fit(Y).n_iter_
    known += [state(lw.KMeans(5, max_iter=i + 1, **options).fit(Y)) for i in range(n_iter)]
    model = lw.KMeans(5, **options)
    seen = []
    for step in itertools.count(1):
        model.fit(X)
        interrupted = interrupt_at(step, lambda: model.fit(Y))
        seen.append(known.index(state(model)))
        if not interrupted:
            break
    assert seen == sorted(seen)
    assert set(seen) == set(range(n_iter + 1))
    assert step > 100


@pytest.mark.parametrize("kind", [lw.IVF, lw.IVFPQ])
def test_an_interrupted_training_changes_nothing(rng, kind):
    X, Y = (cases.integers(rng, (60, 3), 50) for _ in range(2))

    options = {"n_probe": 2, "train_iterations": 1, "n_threads": 1}
    trained = [kind(3, 6, **options).train(data) for data in (X, Y)]
    known = [answers(copy.deepcopy(index).add(X), X[:9], 1) for index in trained]
    assert known[0] != known[1]
    for step in itertools.count(1):
        index = copy.deepcopy(trained[0])
        interrupted = interrupt_at(step, lambda index=index: index.train(Y))
        state = known.index(answers(index.add(X), X[:9], 1))
        if not interrupted:
            break
    assert state == 1
    assert step > 100


# ------------------------------------------------------------------------------------ the GIL


def test_other_threads_run_during_a_call(rng):
    """Python code of another thread runs while a call is inside native code, again and again."""
    _, X = some_index(rng, 20_000, 64)
    index = lw.Flat(64, kernels="scalar", n_threads=1).add(X)
    ids = np.tile(np.arange(5_000), (40, 1))
    for _ in range(20):
        started, done = threading.Event(), threading.Event()

        def score(started=started, done=done):
            started.set()
            index.score(X[:40], ids)
            done.set()

        thread = threading.Thread(target=score)
        thread.start()
        started.wait(timeout=60)
        seen = 0
        while not done.is_set():
            time.sleep(0.001)  # gives the lock away, and takes it again
            seen += 1
        thread.join()
        # With the lock held for the length of the call there is time for one look before it, and
        # one between its end and the event.
        if seen > 3:
            return
    raise AssertionError("the call holds the interpreter's lock")


# ---------------------------------------------------------------------------------- processes


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
forks = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def in_forked_child(work, seconds=60):
    """Whether work() is true in a child of this process."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)  # a child that waits for threads which it has not ends so
            status = 0 if work() else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


@needs_fork
@forks
def test_a_forked_child_has_threads_of_its_own(rng):
    index, X = some_index(rng)
    expected = answers(index, X[:40], 3)  # the parent's threads are there now
    centers = lw.KMeans(9, max_iter=2, n_threads=3).fit(X).cluster_centers_

    def work():
        again = lw.KMeans(9, max_iter=2, n_threads=3).fit(X).cluster_centers_
        grown = lw.Flat(8, n_threads=3).add(X[:1000]).add(X[1000:])
        return (
            answers(index, X[:40], 3) == expected
            and again.tobytes() == centers.tobytes()
            and answers(grown, X[:40], 2) == expected
        )

    assert in_forked_child(work)
    assert answers(index, X[:40], 3) == expected
    assert in_forked_child(lambda: in_forked_child(work)), "and so has its child"


@needs_fork
@forks
def test_fork_in_the_middle_of_other_threads_calls(rng):
    index, X = some_index(rng)
    expected = answers(index, X[:40], 3)
    stop = threading.Event()

    def search():
        while not stop.is_set():
            index.search(X[:40], 10, n_threads=3)

    workers = [threading.Thread(target=search) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        good = [in_forked_child(lambda: answers(index, X[:40], 3) == expected) for _ in range(10)]
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert all(good)


@pytest.mark.slow
def test_a_spawned_process_gives_the_same_answers(rng):
    index, X = some_index(rng)
    ivf = lw.IVF(8, 5).train(X).add(X)
    expected = [each.search(X[:9], 10, n_threads=2) for each in (index, ivf)]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        for each, answer in zip((index, ivf), expected, strict=True):
            got = pool.submit(each.search, X[:9], 10, n_threads=2).result(timeout=300)
            assert_same_bytes(tuple(got), tuple(answer))
            assert_same_bytes(got.stats["dimensions"], answer.stats["dimensions"])
