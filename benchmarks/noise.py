"""Samples of exact noise per second on one core, beside numpy's normal and the bare keystream.

``python -m benchmarks.noise``. The best of several passes: other work on the machine only ever adds time.
"""

import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from wardround.crypto import noise

__all__ = ["measure"]

_COUNT = 4_000_000
_PASSES = 9
_DEVIATIONS = ("0.3", "1", "3", "30", "300", "1000", "5000", "30000", "1000000", str(2**32))


def measure() -> dict[str, float]:
    """Millions of samples a second, by name."""
    out, stream = np.empty(_COUNT, np.int64), noise.NoiseStream(bytes(32))
    found = {
        "keystream, 32-bit words": _rate(lambda: _keystream(stream, np.dtype(np.uint32))),
        "keystream, 64-bit words": _rate(lambda: _keystream(stream, np.dtype(np.uint64))),
        "numpy's normal, float64, PCG64": _rate(lambda: np.random.default_rng(0).standard_normal(out=out.view(float))),
    }
    for deviation in _DEVIATIONS:
        sampler = noise.gaussian(Fraction(deviation) ** 2)
        found[f"discrete Gaussian, sigma {deviation}"] = _rate(lambda: sampler.draw(stream, out))  # noqa: B023
    for scale in ("3", "1000000"):
        sampler = noise.laplace(Fraction(scale))
        found[f"discrete Laplace, scale {scale}"] = _rate(lambda: sampler.draw(stream, out))  # noqa: B023
    return found


def _keystream(stream: noise.NoiseStream, dtype: np.dtype) -> None:
    for _ in range(_COUNT // 16_384):
        stream.words(16_384, dtype)


def _rate(work: Callable[[], object]) -> float:
    spans = []
    for _ in range(_PASSES):
        started = time.perf_counter()
        work()
        spans.append(time.perf_counter() - started)
    return _COUNT / min(spans) / 1e6


def main() -> None:
    """Print a table."""
    print("| what | million samples a second, one core |\n|---|--:|")
    for name, rate in measure().items():
        print(f"| {name} | {rate:.0f} |")


if __name__ == "__main__":
    main()
