"""The binary funnel: its kernel beside the oracle, its bits, its estimates and its answers."""

import pickle

import cases
import numpy as np
import pytest

import lanewise as lw
from lanewise import _native, oracle
from lanewise.binary import FINE_BITS, BinaryPlanes, learn
from lanewise.rotation import RandomRotation

LANES = 16
STORAGES = tuple(FINE_BITS)


# -------------------------------------------------------------------------------------- kernel


def screening(rng, n_groups, n_bits, extreme=False):
    """Arguments of `screen_bits`, with a limit that some estimate meets exactly."""
    bits = rng.integers(0, 256, (n_groups, n_bits // 8, LANES), dtype=np.uint8)
    z = rng.standard_normal(n_bits, dtype=np.float32)
    if extreme:
        # Every code is the largest, and lane l matches all of them, none or some.
        z = rng.choice(np.array([-1, 1], np.float32), n_bits)
        bits[:] = np.packbits(z > 0, bitorder="little")[:, np.newaxis]
        bits[:, :, 1] ^= 255
    tables, total, step = oracle.sign_tables(z)
    n = n_groups * LANES
    base = rng.standard_normal(n, dtype=np.float32)
    base[rng.random(n) < 0.1] = np.inf
    factors = rng.integers(0x3E00, 0x4100, n, dtype=np.uint16)
    alive = rng.integers(0, 1 << 16, n_groups, dtype=np.uint16)
    alive[rng.random(n_groups) < 0.2] = 0
    _, estimates = oracle.screen_bits(bits, base, factors, tables, total, step, 0, alive)
    limit = rng.choice(estimates[np.isfinite(estimates)])
    return bits, base, factors, tables, total, step, limit, alive


def run_screen_bits(kernels, case):
    *arguments, alive = case
    alive = alive.copy()
    estimates = np.zeros(len(alive) * LANES, np.float32)
    kernels.screen_bits(*arguments, alive, estimates)
    return alive, estimates


def truth_of(case):
    alive, estimates = oracle.screen_bits(*case)
    return alive, np.where(np.repeat(alive != 0, LANES), estimates, np.float32(0))


@pytest.mark.parametrize("n_bits", [64, 128, 192, 256, 1024, 4096, 4160, 8256])
def test_screen_bits_equals_the_oracle(kernels, rng, n_bits):
    dropped = met = 0
    for n_groups in (1, 2, 5, 64):
        for extreme in (False, True):
            case = screening(rng, n_groups, n_bits, extreme)
            got, expected = run_screen_bits(kernels, case), truth_of(case)
            assert got[0].tobytes() == expected[0].tobytes(), (n_groups, extreme)
            assert got[1].tobytes() == expected[1].tobytes(), (n_groups, extreme)
            dropped += np.count_nonzero(got[0] != case[-1])
            met += np.count_nonzero(oracle.screen_bits(*case)[1] == case[-2])
    assert dropped > 0
    assert met > 0


def test_sums_reach_what_sixteen_bits_hold(kernels):
    """4,096 dimensions of the largest code are 61,440: one code more a dimension would overflow."""
    for n_bits in (4096, 65_536):
        z = np.ones(n_bits, np.float32)
        tables, total, step = oracle.sign_tables(z)
        assert total == 15 * n_bits
        bits = np.full((1, n_bits // 8, LANES), 255, np.uint8)
        ones = np.full(LANES, 0x3F80, np.uint16)
        zero = np.zeros(LANES, np.float32)
        alive, estimates = np.array([0xFFFF], np.uint16), np.zeros(LANES, np.float32)
        kernels.screen_bits(bits, zero, ones, tables, total, step, 0.0, alive, estimates)
        assert alive[0] == 0xFFFF
        assert (estimates == -(step * np.float32(total))).all()


def test_sign_tables_give_the_product_of_codes_and_signs(rng):
    z = rng.standard_normal(128, dtype=np.float32)
    tables, total, step = oracle.sign_tables(z)
    signs = rng.choice([-1, 1], (LANES, 128))
    bits, _ = oracle.sign_bits(signs)
    codes = np.rint(z / np.float64(step))
    expected = -(step * (signs @ codes).astype(np.float32))
    one, nothing = np.full(LANES, 0x3F80, np.uint16), np.zeros(LANES)
    _, estimates = oracle.screen_bits(
        bits.T[np.newaxis], nothing, one, tables, total, step, np.inf, [0xFFFF]
    )
    assert estimates.tolist() == expected.tolist()


# ---------------------------------------------------------------------------------------- bits


def planes_of(index) -> BinaryPlanes:
    planes = index._rows.snapshot.state.planes
    assert isinstance(planes, BinaryPlanes)
    return planes


def turned(index, X):
    """Vectors as their signs are taken, for an index without axes."""
    plan = planes_of(index).plan
    padded = np.zeros((len(X), plan.n_bits), np.float32)
    padded[:, : index.dim] = X - plan.center
    kernels = index._rows.kernels
    return RandomRotation(plan.n_bits, seed=plan.seed, kernels=kernels).transform(padded)


@pytest.mark.parametrize("dim", [1, 63, 64, 65, 100, 256])
def test_packing_is_exact(kernels, rng, dim):
    half = cases.integers(rng, (50, dim))
    X = np.concatenate((half, -half, np.zeros((3, dim), np.float32)))  # the mean is exactly 0
    index = lw.Flat(dim, storage="binary", rotation="fwht", kernels=kernels).add(X)
    plan = planes_of(index).plan
    assert not plan.center.any()
    arrays = planes_of(index).arrays(index._rows.snapshot.state.positions)
    bits, factors = oracle.sign_bits(turned(index, X))
    n, n_bytes = len(X), plan.n_bits // 8
    got = arrays["bits"].reshape(-1, n_bytes, LANES).swapaxes(1, 2).reshape(-1, n_bytes)
    assert np.array_equal(got[:n], bits)
    assert not got[n:].any()
    assert np.array_equal(arrays["base"][:n], (X**2).sum(axis=1) / 2)
    assert np.isinf(arrays["base"][n:]).all()
    # bfloat16 has 8 digits: the nearest is at most 2^-8 off.
    assert np.allclose(oracle.bfloat16(arrays["factors"][:n]), factors, rtol=2.0**-8, atol=0)
    assert not arrays["factors"][n - 3 : n].any()
    # Eight bytes beside the bits.
    assert sum(arrays[name].itemsize for name in ("base", "factors", "errors")) == 8


@pytest.mark.parametrize("storage", STORAGES[1:])
@pytest.mark.parametrize("dim", [1, 64, 100, 256, 300])
def test_fine_packing_is_exact(kernels, rng, dim, storage):
    X = rng.standard_normal((50, dim), dtype=np.float32)
    X[3:5] = X.mean(axis=0)
    index = lw.Flat(dim, storage=storage, rotation="fwht", kernels=kernels).add(X)
    plan, bits = planes_of(index).plan, FINE_BITS[storage]
    arrays = planes_of(index).arrays(64)
    y = turned(index, X)
    codes, factors = oracle.fine_codes(y, bits)
    width = 512 // bits
    n_codes = -(-plan.n_bits // width) * width
    fields = arrays["fine"].view(np.uint8).reshape(64, -1, 1, 64)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, np.newaxis]
    stored = (fields >> shifts & (1 << bits) - 1).reshape(64, n_codes).astype(np.int8)
    got = stored[:50, : plan.n_bits] - (1 << bits - 1)
    # A coordinate that a level's rounded end meets may be on either side of it.
    scaled = (
        y
        / ({2: 0.9957, 4: 0.3352}[bits] * np.sqrt((y.astype(float) ** 2).mean(axis=1)))[
            :, np.newaxis
        ]
    )
    sure = np.abs(scaled - np.rint(scaled)) > 1e-9
    assert np.array_equal(got[sure], codes[sure])
    assert sure.mean() > 0.9
    assert not stored[:, plan.n_bits :].any()
    assert not stored[50:].any()
    assert np.allclose(arrays["fine_factors"][:50], factors, rtol=1e-6, atol=0)


# ----------------------------------------------------------------------------------- estimates


def estimates_of(index, query):
    """Estimates of all rows, made by the oracle from the index's bits."""
    plan = planes_of(index).plan
    arrays = planes_of(index).arrays(index._rows.snapshot.state.positions)
    bits = arrays["bits"].reshape(-1, plan.n_bits // 8, LANES)
    tables, total, step = oracle.sign_tables(turned(index, query[np.newaxis])[0])
    _, estimates = oracle.screen_bits(
        bits,
        arrays["base"],
        arrays["factors"],
        tables,
        total,
        step,
        np.inf,
        np.full(len(bits), 0xFFFF),
    )
    return estimates


def fine_estimates_of(index, query, rows):
    """Estimates of rows by their fine codes, made by the oracle from the index's codes."""
    planes = planes_of(index)
    arrays = planes.arrays(index._rows.snapshot.state.positions)
    bits, n_bits = planes.fine_bits, planes.plan.n_bits
    z = turned(index, query[np.newaxis])[0].astype(np.float64)
    step = np.float32(np.abs(z).max() / 127)
    code = np.clip(np.rint(z / np.float64(step)), -127, 127) if step > 0 else np.zeros(n_bits)
    fields = arrays["fine"].view(np.uint8).reshape(-1, planes.plan.native.fine_stride // 64, 1, 64)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, np.newaxis]
    stored = (fields >> shifts & (1 << bits) - 1).reshape(len(fields), -1)[:, :n_bits]
    codes = stored[rows].astype(np.int64) - (1 << bits - 1)
    product = step * ((2 * codes + 1) @ code).astype(np.float32)
    return arrays["base"][rows] - arrays["fine_factors"][rows] * product


@pytest.mark.parametrize("storage", STORAGES[1:])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_fine_candidates_are_the_best_of_the_best(kernels, rng, metric, storage):
    X = rng.standard_normal((900, 80), dtype=np.float32)
    X[100:130] = X[0]
    Q = np.concatenate((rng.standard_normal((4, 80), dtype=np.float32), X[:1]))
    index = lw.Flat(80, metric, storage=storage, rotation="fwht", kernels=kernels).add(X)
    for rerank in (3, 20, 90):
        refine = index._rows._refine(rerank)
        assert rerank < refine < len(X)
        found = index.search(Q, 3, rerank=rerank)
        assert (found.stats["settled"] == rerank).all()
        for q, query in enumerate(Q):
            best = np.sort(np.argsort(estimates_of(index, query)[: len(X)], kind="stable")[:refine])
            order = np.argsort(fine_estimates_of(index, query, best), kind="stable")[:rerank]
            distances = index.score([query], [best[order]])[0]
            first = np.lexsort((best[order], distances))[:3]
            assert found.ids[q].tolist() == best[order][first].tolist()
            assert found.distances[q].tobytes() == distances[first].tobytes()


def test_finer_codes_err_less(rng):
    X = rng.standard_normal((500, 96), dtype=np.float32)
    query = rng.standard_normal(96, dtype=np.float32)
    errors = []
    for storage in STORAGES[1:]:
        index = lw.Flat(96, storage=storage, rotation="fwht").add(X)
        center = planes_of(index).plan.center.astype(np.float64)
        truth = ((X - center) ** 2).sum(axis=1) / 2 - (X - center) @ (query - center)
        arrays = planes_of(index).arrays(512)
        claimed = oracle.bfloat16(arrays["fine_errors"][:500]) * np.linalg.norm(query - center)
        off = fine_estimates_of(index, query, np.arange(500)) - truth
        assert 0.5 < np.sqrt(((off / claimed) ** 2).mean()) < 1.3
        errors.append(np.sqrt((off**2).mean()))
    # 0.135 / 0.0117 of the variance, and of signs 0.57 / 0.135.
    signs = np.sqrt(((estimates_of(index, query)[:500] - truth) ** 2).mean())
    assert errors[1] < errors[0] / 2 < signs / 3


@pytest.mark.parametrize("storage", STORAGES)
def test_a_sample_that_misleads_costs_no_candidate(rng, storage):
    """The groups that are sampled hold all that is near: the first bound is far too tight."""
    X = 8 * rng.standard_normal((5120, 64), dtype=np.float32)
    near = np.flatnonzero(np.arange(5120) // LANES % LANES == 0)[:40]
    X[near] = 0.1 * rng.standard_normal((40, 64), dtype=np.float32)
    index = lw.Flat(64, storage=storage, rotation="fwht").add(X)
    query = np.zeros(64, np.float32)
    best = np.argsort(estimates_of(index, query)[: len(X)], kind="stable")
    for n_threads in cases.THREADS:
        for queries in (query[np.newaxis], np.zeros((6, 64), np.float32)):
            found = index.search(queries, 100, rerank=160, n_threads=n_threads)
            assert (found.stats["settled"] == 160).all()
            assert (found.stats["candidates"] == len(X)).all()
            if storage == "binary":
                distances = index.score([query], [best[:160]])[0]
                order = np.lexsort((best[:160], distances))[:100]
                assert (found.ids == best[:160][order]).all()


@pytest.mark.slow
def test_estimates_are_unbiased(rng):
    """Over many rotations the mean error is within six of its standard deviations of zero.

    With normal errors, 40 means of which any is outside by chance: 40 * 2e-9.
    """
    dim, n_rotations = 64, 400
    X = rng.standard_normal((40, dim), dtype=np.float32)
    query = X[0] + rng.standard_normal(dim, dtype=np.float32)
    errors = []
    for seed in range(n_rotations):
        index = lw.Flat(dim, storage="binary", rotation="fwht", seed=seed).add(X)
        center = planes_of(index).plan.center.astype(np.float64)
        truth = ((X - center) ** 2).sum(axis=1) / 2 - (X - center) @ (query - center)
        arrays = planes_of(index).arrays(64)
        claimed = oracle.bfloat16(arrays["errors"][:40]) * np.linalg.norm(query - center)
        errors.append((estimates_of(index, query)[:40] - truth) / claimed)
    errors = np.array(errors)
    z = errors.mean(axis=0) / (errors.std(axis=0) / np.sqrt(n_rotations))
    assert np.abs(z).max() < 6
    # What a row claims of its error bounds it: the part along the row is known exactly.
    assert 0.3 < np.sqrt((errors**2).mean()) <= 1.05


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_candidates_are_the_best_by_estimate(kernels, rng, metric):
    X = rng.standard_normal((700, 48), dtype=np.float32)
    X[100:130] = X[0]  # equal estimates go by position
    Q = np.concatenate((rng.standard_normal((4, 48), dtype=np.float32), X[:1]))
    index = lw.Flat(48, metric, storage="binary", rotation="fwht", kernels=kernels).add(X)
    for rerank in (3, 20, 64, 200):
        found = index.search(Q, 3, rerank=rerank)
        assert (found.stats["settled"] == rerank).all()
        for q, query in enumerate(Q):
            best = np.argsort(estimates_of(index, query)[: len(X)], kind="stable")[:rerank]
            distances = index.score([query], [best])[0]
            order = np.lexsort((best, distances))[:3]
            assert found.ids[q].tolist() == best[order].tolist()
            assert found.distances[q].tobytes() == distances[order].tobytes()


# ------------------------------------------------------------------------------------- answers


@pytest.fixture(scope="module")
def clustered():
    rng = np.random.default_rng(8)
    centers = rng.standard_normal((20, 96)) * 2
    scale = np.arange(1, 97) ** -0.5
    X = (centers[rng.integers(0, 20, 9030)] + rng.standard_normal((9030, 96))) * scale
    return X[:9000].astype(np.float32), X[9000:].astype(np.float32)


@pytest.mark.parametrize("rotation", ["auto", "pca", "fwht"])
@pytest.mark.parametrize("metric", cases.METRICS)
@pytest.mark.parametrize("storage", STORAGES)
def test_all_rows_as_candidates_are_exact(clustered, metric, rotation, storage):
    X, Q = clustered
    index = lw.Flat(96, metric, storage=storage, rotation=rotation).add(X[:3000])
    exact = lw.Flat(96, metric).add(X[:3000]).search(Q, 10)
    for rerank in (3000, 10**9):
        found = index.search(Q, 10, rerank=rerank)
        assert np.array_equal(found.ids, exact.ids)
        assert found.distances.tobytes() == exact.distances.tobytes()


@pytest.mark.parametrize("metric", cases.METRICS)
@pytest.mark.parametrize("storage", STORAGES)
def test_the_default_finds_nearly_all(clustered, metric, storage):
    X, Q = clustered
    index = lw.Flat(96, metric, storage=storage).add(X)
    exact = lw.Flat(96, metric).add(X).search(Q, 10)
    found = index.search(Q, 10)
    assert oracle.recall(found.ids, exact.ids, 10) >= 0.97
    assert (found.stats["settled"] < len(X) / 4).all()
    # What is returned is exact.
    assert found.distances.tobytes() == index.score(Q, found.ids).tobytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_same_answers_for_threads_batches_and_kernels(clustered, storage):
    X, Q = clustered
    first = lw.Flat(96, storage=storage, kernels="scalar").add(X)
    expected = first.search(Q, 5, rerank=60, n_threads=1)
    digests = set()
    for name in cases.RUNNABLE:
        index = lw.Flat(96, storage=storage, kernels=name).add(X)
        arrays = planes_of(index).arrays(9024)
        digests.add(
            b"".join(arrays[part].tobytes() for part in ("bits", "base", "factors", "errors"))
        )
        for n_threads in cases.THREADS:
            for eps0 in (np.inf, 1.5):
                how = {"rerank": 60, "eps0": eps0, "n_threads": n_threads}
                whole = index.search(Q, 5, **how)
                single = [index.search(q, 5, **how) for q in Q]
                assert np.array_equal(whole.ids, np.concatenate([one.ids for one in single]))
                settled = np.concatenate([one.stats["settled"] for one in single])
                assert np.array_equal(whole.stats["settled"], settled)
                if eps0 == np.inf:
                    assert np.array_equal(whole.ids, expected.ids)
                    assert whole.distances.tobytes() == expected.distances.tobytes()
    assert len(digests) == 1


@pytest.mark.parametrize("storage", STORAGES)
def test_eps0_leaves_out_the_hopeless(clustered, storage):
    X, Q = clustered
    index = lw.Flat(96, storage=storage).add(X)
    settled = [
        int(index.search(Q, 10, rerank=2000, eps0=eps0).stats["settled"].sum())
        for eps0 in (0.0, 2.0, 4.0, np.inf)
    ]
    assert settled == sorted(settled)
    assert settled[0] < settled[-1] == 2000 * len(Q)
    exact = lw.Flat(96).add(X).search(Q, 10)
    found = index.search(Q, 10, rerank=len(X), eps0=5.0)
    assert oracle.recall(found.ids, exact.ids, 10) == 1.0


def test_finer_codes_know_sooner_who_is_hopeless(clustered):
    X, Q = clustered
    settled = [
        int(
            lw.Flat(96, storage=storage, rotation="fwht")
            .add(X)
            .search(Q, 10, rerank=2000, eps0=3.0)
            .stats["settled"]
            .sum()
        )
        for storage in STORAGES
    ]
    assert settled[2] < settled[1] * 2 / 3 < settled[0] * 4 / 9


@pytest.mark.parametrize("storage", STORAGES)
def test_filter_and_removal(clustered, storage):
    X, Q = clustered
    rng = np.random.default_rng(1)
    index = lw.Flat(96, storage=storage).add(X)
    mask = rng.random(len(X)) < 0.02
    for allowed in (mask, np.flatnonzero(mask)):
        found = index.search(Q, 10, filter=allowed, rerank=len(X))
        exact = lw.Flat(96).add(X).search(Q, 10, filter=allowed)
        assert np.array_equal(found.ids, exact.ids)
        assert (found.stats["candidates"] == mask.sum()).all()
    few = index.search(Q, 10, filter=mask, rerank=20)
    assert mask[few.ids].all()
    assert (few.stats["settled"] == 20).all()

    best = index.search(Q, 1, rerank=len(X)).ids.ravel()
    index._rows.remove(np.unique(best), None)
    assert not np.isin(index.search(Q, 10, rerank=100).ids, best).any()
    left = np.setdiff1d(np.arange(len(X)), best)
    exact = lw.Flat(96).add(X[left]).search(Q, 10)
    assert np.array_equal(index.search(Q, 10, rerank=len(X)).ids, left[exact.ids])


@pytest.mark.parametrize("storage", STORAGES)
def test_adding_bit_by_bit(rng, storage):
    X = rng.standard_normal((500, 20), dtype=np.float32)
    index = lw.Flat(20, storage=storage)
    for begin in range(0, 500, 37):
        index.add(X[begin : begin + 37])
    exact = lw.Flat(20).add(X).search(X[:9], 4)
    found = index.search(X[:9], 4, rerank=500)
    assert np.array_equal(found.ids, exact.ids)


@pytest.mark.parametrize("storage", STORAGES)
def test_pickle(clustered, storage):
    X, Q = clustered
    index = lw.Flat(96, storage=storage).add(X)
    index._rows.remove([3, 4], None)
    again = pickle.loads(pickle.dumps(index))
    before, after = index.search(Q, 7), again.search(Q, 7)
    assert np.array_equal(before.ids, after.ids)
    assert before.distances.tobytes() == after.distances.tobytes()
    again.add(Q)
    assert again.search(Q[0], 1).ids.tolist() == [[len(X)]]
    empty = pickle.loads(pickle.dumps(lw.Flat(3, storage=storage)))
    assert empty.search([1, 2, 3], 1).ids.tolist() == [[-1]]


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 7, 15, 16, 17, 33, 63, 64, 65, 70])
def test_tiny_dimensions_and_degenerate_rows(rng, dim):
    for n in (1, 17, 300):
        X = rng.standard_normal((n, dim), dtype=np.float32)
        for rows in (X, np.zeros_like(X), np.full_like(X, 7), np.repeat(X[:1], n, axis=0)):
            for metric in cases.METRICS:
                index = lw.Flat(dim, metric, storage="binary").add(rows)
                exact = lw.Flat(dim, metric).add(rows).search(X[:3], 3)
                found = index.search(X[:3], 3, rerank=300)
                assert np.array_equal(found.ids, exact.ids), (n, metric)
                assert found.distances.tobytes() == exact.distances.tobytes()


@pytest.mark.parametrize("kind", list(cases.KINDS))
def test_awkward_values(rng, kind):
    X = cases.KINDS[kind](rng, (200, 40))
    exact = lw.Flat(40).add(X).search(X[:5], 3)
    found = lw.Flat(40, storage="binary").add(X).search(X[:5], 3, rerank=200)
    assert np.array_equal(found.ids, exact.ids)
    assert found.distances.tobytes() == exact.distances.tobytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_ivf(clustered, storage):
    X, Q = clustered
    ivf = lw.IVF(96, 16, storage=storage).train(X).add(X)
    exact = lw.IVF(96, 16).train(X).add(X)
    for n_probe in (1, 5, 16):
        a = ivf.search(Q, 10, n_probe=n_probe, rerank=len(X))
        b = exact.search(Q, 10, n_probe=n_probe)
        assert np.array_equal(a.ids, b.ids)
        assert a.distances.tobytes() == b.distances.tobytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_equal_estimates_go_by_position_whatever_the_order_of_lists(kernels, storage):
    X = np.tile(np.arange(8, dtype=np.float32), (400, 1))
    rows = lw.Flat(8, storage=storage, kernels=kernels)._rows
    rows.arrange(X, np.repeat(np.array([1, 0], np.int32), 200), 2, None, 1)
    for probes in ([[0, 1]], [[1, 0]]):
        found = rows.search(
            np.ascontiguousarray(X[:1]) + 1,
            20,
            probes=np.array(probes),
            filter=None,
            eps0=np.inf,
            delta=8,
            n_threads=1,
            rerank=20,
        )
        # List 0 comes first, and holds the rows from 200 on.
        assert found.ids.tolist() == [list(range(200, 220))]


# ------------------------------------------------------------------------------------ planning


def test_bits_follow_the_spectrum():
    rng = np.random.default_rng(5)
    flat = rng.standard_normal((4000, 512), dtype=np.float32)
    plan = learn(flat, "auto", 0)
    assert plan.n_axes == 512
    assert plan.panels is None
    steep = flat * np.arange(1, 513, dtype=np.float32) ** np.float32(-1.0)
    assert learn(steep, "auto", 0).n_bits < 512
    assert learn(steep, "fwht", 0).n_axes == 512


# -------------------------------------------------------------------------------------- errors


def test_errors():
    index = lw.Flat(4, storage="binary").add(np.eye(4))
    with pytest.raises(ValueError, match=r"rerank.*5"):
        index.search(np.zeros(4), 5, rerank=4)
    with pytest.raises(ValueError, match="rerank"):
        lw.Flat(4).add(np.eye(4)).search(np.zeros(4), 2, rerank=4)
    with pytest.raises(ValueError, match="storage 'binary'"):
        index._rows.within(
            index._rows.as_canonical_queries(np.zeros(4)),
            1.0,
            filter=None,
            eps0=np.inf,
            delta=32,
            n_threads=1,
        )
    with pytest.raises(ValueError, match="rotation"):
        lw.Flat(4, storage="binary", rotation=None)
    with pytest.raises(ValueError, match="storage"):
        lw.Flat(70_000, storage="binary")
    store = index._rows.snapshot.store
    with pytest.raises(ValueError, match="scan rerank"):
        _native.scan(
            index._rows.kernels,
            store,
            index._rows.snapshot.planes,
            np.zeros((1, 4), np.float32),
            None,
            None,
            2,
            np.inf,
            4,
            np.empty((1, 2), np.float32),
            np.empty((1, 2), np.int64),
            np.empty((1, 3), np.uint64),
            1,
            1,
        )
