"""What every test file shares: kernel sets to run on, seeded numbers, and a steady hypothesis."""

import os
import zlib

import numpy as np
import pytest
from hypothesis import settings

from lanewise import _native

# Emulated and shared machines are slow at odd moments, and a red build must be red again tomorrow.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci")

BUILT = [name for name, _ in _native.kernel_names()]
RUNNABLE = [name for name, runnable in _native.kernel_names() if runnable]
# These have instructions of their own for codes and code words only, and all other kernels from
# another set.
EXTENSIONS = {"amx", "avx512vnni", "avx2vnni", "neondot"}


def pytest_sessionstart(session):
    """Fail where a kernel set that somebody counts on cannot run, instead of passing without it."""
    asked = os.environ.get("LANEWISE_EXPECT_ISAS", "").split(",")
    expected = {name.strip() for name in asked if name.strip()}
    for names, reason in (
        (expected - set(BUILT), "not in this build"),
        (expected - set(RUNNABLE), "cannot run here"),
    ):
        if names:
            raise pytest.UsageError(
                f"LANEWISE_EXPECT_ISAS: {', '.join(sorted(names))} {reason}, "
                f"only {', '.join(RUNNABLE)}"
            )


@pytest.fixture(scope="session", params=[name for name in RUNNABLE if name not in EXTENSIONS])
def kernels(request):
    """Every kernel set that can run here and has all kernels of its own, one after another."""
    return _native.kernels_by_name(request.param)


@pytest.fixture(scope="session", params=RUNNABLE)
def code_kernels(request):
    """Every kernel set that can run here: for tests in which byte codes have a part."""
    return _native.kernels_by_name(request.param)


@pytest.fixture
def rng(request):
    """Random numbers that depend on the name of the test only."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
