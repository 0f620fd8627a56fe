"""The exact forms of sketch and transform side by side: milliseconds for rfft(sketch(x)).

    python benchmarks/forms.py
    python benchmarks/forms.py --quick --json=forms.json

The operator's own form on this backend beside each other one, all in JAX: the sketch by addition
or by product before an FFT, the direct DFT (one product with a fixed p x (d + 2) matrix), and the
sketch before a DFT in two stages of products. Spectra and gradients are compared before they are
timed. `stcb.py` has the levels of the model, beside PyTorch.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import comparison
import jax
import jax.numpy as jnp
import numpy as np
from comparison import Row

from stpyramid_jax.ops import stcb as operator
from stpyramid_jax.performance import compiler_options

PACKAGES = ("jax", "jaxlib", "numpy")
TOLERANCE = 1e-3
# Batch 32 of 7 x 7 positions, then of 14 x 14 (or batch 128 of 7 x 7).
ROWS, MORE_ROWS = 32 * 7 * 7, 32 * 14 * 14

_product = functools.partial(jnp.matmul, precision="highest")


def added(x, sketch):
    """Sketch by addition to bins, then FFT."""
    return _split(jnp.fft.rfft(operator._scatter(x, sketch)))


def multiplied(x, sketch):
    """Sketch by product with the p x d matrix of signs, then FFT."""
    return _split(jnp.fft.rfft(operator._multiply(x, sketch)))


def direct(x, sketch):
    """One product: column k is sign exp(-2 pi i hash k / d), real parts before imaginary ones."""
    bins = sketch.output_dim // 2 + 1
    turns = jnp.outer(sketch.hash, jnp.arange(bins)) % sketch.output_dim
    angle = -2 * jnp.pi / sketch.output_dim * turns
    matrix = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], 1)
    return _product(x, sketch.sign[:, None] * matrix)


def staged(x, sketch):
    """Sketch by addition, then d = m n points as m transforms of n and n of m, all products.

    With j = n a + b and k = c + m e: sum_b W_d^(b c) W_n^(b e) sum_a W_m^(a c) y[n a + b].
    """
    d = sketch.output_dim
    m = 2 ** math.ceil(math.log2(d) / 2)
    n = d // m
    rows = operator._scatter(x, sketch).reshape(-1, m, n)
    # Real input: of c only 0..m/2 are computed, the others are their conjugates.
    kept = m // 2 + 1
    inner = _turns(m, kept, m)  # [a, c]
    # Twiddles are part of the outer matrices, of which there is one for each c.
    b, c, e = np.ix_(range(n), range(kept), range(n))
    outer = np.exp(-2j * np.pi / d * (b * c + m * b * e % d)).astype(np.complex64)
    first = jnp.einsum("rab,ac->crb", rows, np.concatenate([inner.real, inner.imag], 1))
    parts = jnp.concatenate([first[:kept], first[kept:]], 2)  # [c, r, real and imaginary b]
    matrix = np.concatenate(
        [np.concatenate([outer.real, outer.imag], 2), np.concatenate([-outer.imag, outer.real], 2)]
    )  # [2 b, c, 2 e]
    both = jnp.einsum("crb,bce->cre", parts, matrix, precision="highest")
    real, imaginary = both[..., :n], both[..., n:]
    # k = c + m e for c up to m/2; k = m - c + m (n - 1 - e) of the others, conjugated.
    real = jnp.concatenate([real, real[1 : m - kept + 1][::-1, :, ::-1]])
    imaginary = jnp.concatenate([imaginary, -imaginary[1 : m - kept + 1][::-1, :, ::-1]])
    spectrum = [part.transpose(1, 2, 0).reshape(-1, d) for part in (real, imaginary)]
    return jnp.concatenate([part[:, : d // 2 + 1] for part in spectrum], 1)


def _turns(rows: int, columns: int, period: int) -> np.ndarray:
    products = np.outer(np.arange(rows), np.arange(columns)) % period
    return np.exp(-2j * np.pi / period * products).astype(np.complex64)


def _split(spectrum):
    return jnp.concatenate([spectrum.real, spectrum.imag], -1)


FORMS = {
    "sketch added, FFT": added,
    "sketch multiplied, FFT": multiplied,
    "direct DFT": direct,
    "sketch added, DFT in two stages": staged,
}


def sizes(quick: bool) -> Iterator[tuple[int, int, int]]:
    """(rows, p, d)."""
    if quick:
        yield ROWS, 1024, 2048
        return
    yield from itertools.product([ROWS], (512, 1024, 2048), (1024, 2048, 4096, 8192, 16384))
    yield from itertools.product([MORE_ROWS], [1024], (1024, 2048))


def compared(
    size: tuple[int, int, int], backward: bool, own: str, repetitions: int
) -> Iterator[Row]:
    """The form `own` beside each other one, timed in turn."""
    rows, p, d = size
    random = np.random.default_rng(0)
    x, cotangent = (
        jnp.asarray(random.standard_normal((rows, n), np.float32)) for n in (p, 2 * (d // 2 + 1))
    )
    (sketch,) = operator.make_sketches(jax.random.key(0), (p,), d)
    case = f"rows {rows}, p {p}, d {d}, forward" + "+backward" * backward
    runs = {
        name: stepping(form, x, sketch, cotangent if backward else None)
        for name, form in FORMS.items()
    }
    expected = [np.asarray(part) for part in runs[own]()]
    others = [name for name in FORMS if name != own]
    for name in others:
        comparison.check_equal(f"{case}, {name}", runs[name](), expected, TOLERANCE)
    here, *there = comparison.in_turn([runs[own], *(runs[name] for name in others)], repetitions)
    for name, seconds in zip(others, there, strict=True):
        yield Row(case, name, 1e3 * here, 1e3 * seconds, "ms")


def stepping(form, x, sketch, cotangent) -> Callable[[], Any]:
    """A form jitted; with the gradient of its input where a cotangent is given."""

    def step(x, sketch, cotangent):
        if cotangent is None:
            return (form(x, sketch),)
        result, pull = jax.vjp(lambda x: form(x, sketch), x)
        return result, *pull(cotangent)

    jitted = jax.jit(step, compiler_options=compiler_options())
    return lambda: jax.block_until_ready(jitted(x, sketch, cotangent))


def main() -> None:
    chosen = comparison.options(__doc__)
    own = "sketch added, FFT" if jax.default_backend() == "cpu" else "sketch multiplied, FFT"
    print(f"ours: {own}")
    results = itertools.chain.from_iterable(
        compared(size, backward, own, chosen.repetitions)
        for size in sizes(chosen.quick)
        for backward in (False, True)
    )
    rows = list(comparison.tabulated(results, PACKAGES))
    if chosen.json:
        comparison.write(chosen.json, rows, PACKAGES)


if __name__ == "__main__":
    main()
