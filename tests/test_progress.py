"""Progress of long calls: what is reported, to whom, and that it changes nothing."""

import itertools
import sys

import numpy as np
import pytest
from cases import assert_same_bytes

import lanewise as lw

KINDS = ("f32", "sq8", "sq4", "binary", "ivf")
every_kind = pytest.mark.parametrize("kind", KINDS)
DIM = 24


def make(kind, X, n_threads=1):
    if kind == "ivf":
        return lw.IVF(DIM, 7, n_probe=3, train_iterations=2, n_threads=n_threads).train(X)
    return lw.Flat(DIM, storage=kind, n_threads=n_threads)


@pytest.fixture(name="X")
def _rows(rng):
    return rng.standard_normal((6000, DIM), dtype=np.float32)


def assert_same_index(got, expected, Q):
    headers, arrays = zip(*(index._rows.arrays() for index in (got, expected)), strict=True)
    assert headers[0] == headers[1]
    assert list(arrays[0]) == list(arrays[1])
    for name, array in arrays[0].items():
        assert_same_bytes(array, arrays[1][name], name)
    assert_same_bytes(tuple(got.search(Q, 9)), tuple(expected.search(Q, 9)))


def answer(index, Q):
    return tuple(part.tobytes() for part in index.search(Q, 9))


@every_kind
def test_every_stage_is_told_from_none_of_it_to_all_of_it(kind, X):
    told = []
    make(kind, X).add(X, progress=lambda *step: told.append(step))
    stages = {
        what: [step[1:] for step in steps]
        for what, steps in itertools.groupby(told, key=lambda step: step[0])
    }
    expected = ["learning", "filling", *(["calibrating"] if kind not in ("f32", "binary") else [])]
    assert list(stages) == (["assigning"] if kind == "ivf" else []) + expected
    for steps in stages.values():
        done, totals = zip(*steps, strict=True)
        assert len(set(totals)) == 1
        assert done[0] == 0
        assert done[-1] == totals[0]
        assert list(done) == sorted(set(done))
    assert 10 < len(stages["filling"]) < 110


@every_kind
@pytest.mark.parametrize("n_threads", [1, 2])
def test_it_changes_nothing(kind, X, n_threads):
    """Whether planes are filled up or made anew, and wherever the rows begin."""
    told, quiet = (make(kind, X, n_threads) for _ in range(2))
    for begin, end in itertools.pairwise((0, 3500, 3501, 3563, 5500, 6000)):
        told.add(X[begin:end], progress=lambda *step: None)
        quiet.add(X[begin:end])
        assert_same_index(told, quiet, X[:5])
    if kind != "ivf":
        for index, options in ((told, {"progress": lambda *step: None}), (quiet, {})):
            index.remove([3]).add(X[:2000], np.arange(7000, 9000), **options)
            index.add(X[:1], [3], **options)
        assert_same_index(told, quiet, X[:5])


@every_kind
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("n_before", [0, 500, 1200])
def test_what_it_raises_ends_the_call_and_nothing_is_added(kind, X, error, n_before):
    X, later = X[:1500], X[1500:1550]
    index, other = (make(kind, X) for _ in range(2))
    for one in (index, other):
        one.add(X[:n_before])
    before = answer(index, X[:5])
    told = []

    def raising(*step):
        told.append(step)
        if len(told) == left:
            raise error

    for left in itertools.count(1):
        told.clear()
        try:
            index.add(X[n_before:], progress=raising)
        except error:
            assert len(told) == left
            assert len(index) == n_before
            assert answer(index, X[:5]) == before
        else:
            break
    assert left >= 3
    other.add(X[n_before:])
    assert_same_index(index.add(later), other.add(later), X[:5])


def test_the_index_may_be_asked_meanwhile(X):
    index = lw.Flat(DIM).add(X[:100])
    expected = answer(index, X[:5])
    seen = []
    index.add(X[100:], progress=lambda *step: seen.append(answer(index, X[:5])))
    assert set(seen) == {expected}
    assert answer(index, X[:5]) != expected


# ------------------------------------------------------------------------------------- the bars


@every_kind
def test_bars_on_a_terminal(kind, X, monkeypatch, capsys):
    pytest.importorskip("rich")
    index, title = make(kind, X), "IVF.add" if kind == "ivf" else "Flat.add"
    assert index.add(X[:3000], progress=True) is index
    assert capsys.readouterr() == ("", ""), "nobody is watching"
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    index.add(X[3000:], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    for what in ("learning", "filling"):
        assert f"{title}: {what}" in err
    assert "100 %" in err
    index.add(X[:9])
    assert capsys.readouterr() == ("", ""), "off by default"
    assert_same_index(index, make(kind, X).add(X[:3000]).add(X[3000:]).add(X[:9]), X[:3])


def test_bars_need_rich(X, monkeypatch):
    index = lw.Flat(DIM).add(X[:50])
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ImportError, match=r"^progress=True needs rich: pip install rich"):
        index.add(X, progress=True)
    assert len(index) == 50
    assert len(index.add(X[:5], progress=False)) == 55


@pytest.mark.parametrize("wrong", [None, 1, "yes", [print]])
def test_other_values_are_refused(X, wrong):
    for index in (lw.Flat(DIM).add(X[:50]), make("ivf", X).add(X[:50])):
        with pytest.raises(TypeError, match=r"^progress: expected a bool or a function, got"):
            index.add(X, progress=wrong)
        assert len(index) == 50


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_a_fit_tells_its_iterations(X, init):
    told = []
    model = lw.KMeans(9, init=init, max_iter=20, tol=0)
    fitted = model.fit(X[:500], progress=lambda *step: told.append(step))
    silent = lw.KMeans(9, init=init, max_iter=20, tol=0).fit(X[:500])
    assert_same_bytes(fitted.cluster_centers_, silent.cluster_centers_)
    starting = [step for step in told if step[0] == "starting"]
    assert starting == [("starting", i + 1, 9) for i in range(9 if init == "k-means++" else 0)]
    iterations = [("iterating", i, 20) for i in range(fitted.n_iter_)]
    assert told[len(starting) :] == [*iterations, ("iterating", 20, 20)]


def test_a_fit_that_is_stopped_leaves_the_model_as_it_was(X):
    class EnoughError(Exception):
        pass

    def stop(what, done, total):
        if (what, done) == ("iterating", 2):
            raise EnoughError

    model = lw.KMeans(9, tol=0)
    with pytest.raises(EnoughError):
        model.fit(X[:500], progress=stop)
    assert not hasattr(model, "labels_")
    index = lw.IVF(DIM, 9)
    with pytest.raises(EnoughError):
        index.train(X[:500], progress=stop)
    with pytest.raises(ValueError, match="train"):
        index.add(X)
