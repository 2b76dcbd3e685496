"""The vector words mean what NumPy means."""

import numpy as np
import pytest
from numba import njit

from flexavatar_cli.render.simd import fma, lane_bits, lane_sums, load, lowest_bit, select, store


@njit
def _arithmetic(x, y, out):  # type: ignore[no-untyped-def]
    a, b = load(x, 3), load(y, 0)
    store(out, 0, (a + b) * 2.0 - 1 / b)
    store(out, 16, fma(a, b, -0.5))
    store(out, 32, select((a < b) & (a >= 0.25), a, 0.0))
    store(out, 48, 7)


@njit
def _reductions(x, out):  # type: ignore[no-untyped-def]
    a = load(x, 0)
    store(out, 0, lane_sums((a, a * a, a * 0.0, a + 1.0, a, a - 1.0, a, a, a * 3.0)))
    bits = lane_bits(a > 0.5)
    return bits, lowest_bit(bits)


def test_arithmetic_is_lane_by_lane() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.uniform(0.1, 1, (2, 19)).astype(np.float32)
    out = np.zeros(64, np.float32)
    _arithmetic(x, y, out)
    a, b = x[3:], y[:16]
    expected = [(a + b) * 2 - 1 / b, a * b - 0.5, np.where((a < b) & (a >= 0.25), a, 0), np.full(16, 7)]
    np.testing.assert_allclose(out.reshape(4, 16), expected, rtol=1e-6, atol=1e-6)


def test_lane_sums_and_bits() -> None:
    a = np.random.default_rng(1).uniform(size=16).astype(np.float32)
    out = np.full(16, np.nan, np.float32)
    bits, lowest = _reductions(a, out)
    expected = [v.sum() for v in (a, a * a, a * 0, a + 1, a, a - 1, a, a, a * 3)] + [0] * 7
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    assert bits == sum(1 << int(i) for i in np.flatnonzero(a > 0.5))
    assert lowest == np.flatnonzero(a > 0.5)[0]


def test_other_arrays_are_refused_when_compiling() -> None:
    with pytest.raises(TypeError, match="float32"):
        njit(lambda x: lane_bits(load(x, 0) > 0.0))(np.zeros(16))
