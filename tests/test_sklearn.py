"""lanewise.sklearn: scikit-learn's own checks, and that it gives what lanewise.KMeans gives."""

import doctest
import pickle
import subprocess
import sys

import numpy as np
import pytest
from cases import assert_same_bytes
from test_cluster import blobs

import lanewise as lw

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import lanewise.sklearn
from lanewise.sklearn import KMeans

# Only what the checks leave out for want of pandas or an array API; that they fail is an error.
QUIET = pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
# Checks hand in arrays and settings that make scikit-learn itself warn.
CALM = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.slow
@QUIET
@CALM
@pytest.mark.parametrize("options", [{}, {"n_clusters": 3, "metric": "cosine", "n_jobs": 1}])
def test_scikit_learns_checks(options):
    results = check_estimator(KMeans(**options))
    statuses = [result["status"] for result in results]
    assert set(statuses) <= {"passed", "skipped"}
    assert statuses.count("passed") > 50


def test_examples():
    result = doctest.testmod(lanewise.sklearn)
    assert result.attempted > 2
    assert result.failed == 0


OPTIONS = [
    {"n_clusters": 4, "random_state": 3},
    {"n_clusters": 5, "random_state": 2**40, "metric": "cosine", "init": "random", "n_init": 2},
    {"n_clusters": 4, "random_state": 0, "max_cluster_size": 40, "max_iter": 5, "tol": 0.0},
    {"n_clusters": 4, "random_state": 0, "max_points_per_centroid": 20},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_it_gives_what_the_library_gives(rng, options):
    X, Q = blobs(rng, 120, 5, 4), blobs(rng, 30, 5, 4)
    weights, of_queries = rng.standard_exponential(120), rng.standard_exponential(30)
    model = KMeans(**options)
    expected = lw.KMeans(**options).fit(X, sample_weight=weights)
    assert model.fit(X, sample_weight=weights) is model
    assert_same_bytes(model.cluster_centers_, expected.cluster_centers_)
    assert_same_bytes(model.labels_, expected.labels_)
    assert (model.inertia_, model.n_iter_) == (expected.inertia_, expected.n_iter_)
    assert_same_bytes(model.predict(Q), expected.predict(Q))
    assert_same_bytes(model.transform(Q), expected.transform(Q))
    assert model.score(Q) == expected.score(Q)
    weighted = {"sample_weight": of_queries}
    assert model.score(Q, **weighted) == expected.score(Q, **weighted)
    assert_same_bytes(
        clone(model).fit_predict(X, sample_weight=weights),
        lw.KMeans(**options).fit_predict(X, sample_weight=weights),
    )
    twin = pickle.loads(pickle.dumps(model))
    assert_same_bytes(twin.predict(Q), model.predict(Q))
    names = [f"kmeans{i}" for i in range(options["n_clusters"])]
    assert model.get_feature_names_out().tolist() == names
    params = model.get_params()
    assert params == clone(model).get_params()
    assert {name: params[name] for name in options} == options


def test_batches_and_warm_starts(rng):
    X, Y = blobs(rng, 60, 5, 4), blobs(rng, 50, 5, 4)
    model, expected = KMeans(4, random_state=1), lw.KMeans(4, random_state=1)
    for batch in (X, Y):
        assert_same_bytes(
            model.partial_fit(batch).cluster_centers_, expected.partial_fit(batch).cluster_centers_
        )
    assert model.n_steps_ == 2
    assert model.fit(X).n_steps_ == 0
    options = {"random_state": 1, "max_iter": 1, "tol": 0, "warm_start": True}
    model, expected = KMeans(4, **options), lw.KMeans(4, **options)
    Z = blobs(rng, 300, 5, 1)
    inertias = []
    for _ in range(3):
        assert_same_bytes(model.fit(Z).cluster_centers_, expected.fit(Z).cluster_centers_)
        inertias.append(model.inertia_)
    assert inertias == sorted(set(inertias), reverse=True)


def test_a_refused_fit_leaves_the_estimator_as_it_was(rng):
    X = blobs(rng, 60, 5, 4)
    model = KMeans(4, random_state=1).fit(X)
    model.feature_names_in_ = np.array(list("abcde"), dtype=object)
    before = dict(vars(model))
    for wrong, options in (
        (X[:3, :3], {}),
        (X[:, :3] * np.nan, {}),
        (X[:, :3], {"sample_weight": np.zeros(60)}),
    ):
        with pytest.raises(ValueError, match=r"expected|NaN"):
            model.fit(wrong, **options)
        assert vars(model) == before
    with pytest.raises(ValueError, match="expected at least n_clusters"):
        (new := KMeans(4)).partial_fit(X[:3])
    assert not hasattr(new, "n_features_in_")
    assert model.fit(X[:, :3]).n_features_in_ == 3


def test_batches_keep_to_their_settings(rng):
    X = blobs(rng, 60, 5, 4)
    model = KMeans(4, random_state=1).partial_fit(X)
    before = dict(vars(model))
    for setting, words in (
        ({"n_clusters": 5}, "^n_clusters: expected 4 as before, got 5"),
        ({"metric": "cosine"}, "^metric: expected 'l2' as before, got 'cosine'"),
    ):
        model.set_params(**setting)
        with pytest.raises(ValueError, match=words):
            model.partial_fit(X)
        model.set_params(n_clusters=4, metric="l2")
    assert vars(model) == before
    assert model.partial_fit(X).n_steps_ == 2


def test_wrong_numbers_of_jobs_are_named():
    X = np.eye(3)
    for n_jobs, error in ((0, ValueError), (True, TypeError), (2.0, TypeError), ("2", TypeError)):
        with pytest.raises(error, match=r"^n_jobs: expected an integer"):
            KMeans(2, n_jobs=n_jobs).fit(X)
    for n_jobs in (None, -1, -100, 2, np.int64(1)):
        assert KMeans(2, n_jobs=n_jobs).fit(X).labels_.shape == (3,)


def test_other_random_states(rng):
    X = blobs(rng, 80, 3, 1)
    one, same = (
        KMeans(9, random_state=np.random.RandomState(4), max_iter=1).fit(X) for _ in range(2)
    )
    assert_same_bytes(one.cluster_centers_, same.cluster_centers_)
    state = np.random.RandomState(4)
    first, second = (KMeans(9, random_state=state, max_iter=1).fit(X) for _ in range(2))
    assert_same_bytes(first.cluster_centers_, one.cluster_centers_)
    assert not np.array_equal(second.cluster_centers_, first.cluster_centers_)
    states = {KMeans(9, max_iter=1).fit(X).cluster_centers_.tobytes() for _ in range(5)}
    assert len(states) > 1, "None is another one in each fit"
    assert KMeans(2, random_state=0, n_jobs=-1).fit(X).predict(X).shape == (80,)


def test_ctrl_c_keeps_what_there_is(rng, monkeypatch):
    X = blobs(rng, 80, 3, 1)
    original = lw.lloyd.Run.means
    calls = []

    def means(self, *args):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(lw.lloyd.Run, "means", means)
    model = KMeans(9, random_state=0, tol=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    expected = lw.KMeans(9, max_iter=2, tol=0).fit(X)
    assert_same_bytes(model.predict(X), expected.labels_)
    assert_same_bytes(model.labels_, expected.labels_)


def test_it_stands_in_pipelines_and_searches(rng):
    X = blobs(rng, 90, 4, 3)
    pipeline = make_pipeline(StandardScaler(), KMeans(3, random_state=0))
    labels = pipeline.fit_predict(X)
    scaled = StandardScaler().fit_transform(X)
    assert_same_bytes(labels, lw.KMeans(3).fit(scaled).labels_)
    search = GridSearchCV(KMeans(random_state=0), {"n_clusters": [1, 3]}, cv=3).fit(X)
    assert search.best_params_ == {"n_clusters": 3}


def test_wrong_settings_are_named_by_fit():
    for options, words in (
        ({"n_clusters": 0}, "n_clusters: expected an integer from 1 to"),
        ({"init": "best"}, "init: expected one of"),
        ({"metric": "l1"}, "metric: expected one of"),
    ):
        with pytest.raises(ValueError, match=words):
            KMeans(**options).fit(np.eye(9))


def test_scikit_learn_is_asked_for_by_name_only():
    code = (
        "import sys, lanewise; assert 'sklearn' not in sys.modules; sys.modules['sklearn'] = None\n"
        "try:\n    import lanewise.sklearn\n"
        "except ImportError as error:\n    print(error)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "lanewise.sklearn needs scikit-learn" in out
    assert 'pip install "lanewise[sklearn]"' in out
