"""What one call into the extension costs: arguments checked, views taken, the GIL released."""

import numpy as np

from bench.summary import Claim
from lanewise import _native

GROUP = "one native call on a 1 x 1 array"
OURS = "lanewise._native.squared_norms"

CLAIMS = [Claim("one native call", "1 us", GROUP, OURS, 1e-6, asked=1)]

x = np.ones((1, 1), dtype=np.float32)


def test_native_call(timed):
    out = np.empty(1)
    timed(GROUP, OURS, lambda: _native.squared_norms(x, out))


def test_numpy_call(timed):
    timed(GROUP, "np.einsum", lambda: np.einsum("ij,ij->i", x, x), role="yardstick")
