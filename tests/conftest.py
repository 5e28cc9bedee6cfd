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

RUNNABLE = [name for name, runnable in _native.kernel_names() if runnable]


def pytest_sessionstart(session):
    """Fail where a kernel set that somebody counts on cannot run, instead of passing without it."""
    expected = os.environ.get("LANEWISE_EXPECT_ISAS", "")
    missing = {name.strip() for name in expected.split(",") if name.strip()} - set(RUNNABLE)
    if missing:
        raise pytest.UsageError(
            f"LANEWISE_EXPECT_ISAS: {', '.join(sorted(missing))} cannot run here, "
            f"only {', '.join(RUNNABLE)}"
        )


@pytest.fixture(scope="session", params=RUNNABLE)
def kernels(request):
    """Every kernel set that is built and can run here, one after another."""
    return _native.kernels_by_name(request.param)


@pytest.fixture
def rng(request):
    """Random numbers that depend on the name of the test only."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
