"""stcb against the explicit outer product, its statistics, its gradients, and where it may run."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from stpyramid_jax.ops.stcb import Sketch, count_sketch, make_sketches, signed_sqrt_l2, stcb


def normal(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def sketches_of(dims, d, seed=0):
    """As `make_sketches` draws them, without compiling a draw for every size."""
    rng = np.random.default_rng(seed)
    return tuple(
        Sketch(jnp.asarray(rng.integers(0, d, p)), jnp.asarray(rng.choice([-1.0, 1.0], p)), d)
        for p in dims
    )


def outer_product(features, sketches):
    """The definition in float64: every product x_1[j_1] ... x_m[j_m], one by one, into its bin."""
    d = sketches[0].output_dim
    product, bins = np.ones(1), np.zeros(1, int)
    for x, sketch in zip(features, sketches, strict=True):
        signed = np.asarray(x, np.float64) * np.asarray(sketch.sign, np.float64)
        product = np.multiply.outer(product, signed).reshape(-1)
        bins = np.add.outer(bins, np.asarray(sketch.hash)).reshape(-1) % d
    return np.bincount(bins, weights=product, minlength=d)


fused_of = jax.jit(stcb)


def rows_of_fft(fn, *args):
    """Number of rows that each real FFT of a function's compiled program reads."""
    program = jax.jit(fn).lower(*args).as_text()
    found = re.findall(r"stablehlo\.fft .*type = RFFT.*\(tensor<([\dx]+)xf32>\)", program)
    return [math.prod(map(int, shape.split("x")[:-1])) for shape in found]


@pytest.mark.parametrize("d", [1, 7, 16])
@pytest.mark.parametrize("dims", [(5,), (5, 4), (6, 3, 4)], ids=str)
def test_is_the_sketched_outer_product(dims, d):
    """Wrong scale of the inverse FFT, a wrong complex product or an odd d would all show here."""
    sketches = sketches_of(dims, d)
    features = [normal(p, seed=p) for p in dims]
    np.testing.assert_allclose(
        fused_of(features, sketches), outer_product(features, sketches), atol=1e-5
    )


def test_leading_axes_are_a_batch():
    sketches = sketches_of((5, 4), 9)
    x, y = normal(2, 3, 5), normal(2, 3, 4, seed=1)
    fused = fused_of([x, y], sketches)
    assert fused.shape == (2, 3, 9)
    for index in np.ndindex(2, 3):
        expected = outer_product([x[index], y[index]], sketches)
        np.testing.assert_allclose(fused[index], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 1, 5), (3, 4, 5), (1, 5), (5,)], ids=str)
def test_broadcasting_equals_tiling(shape):
    sketches = sketches_of((5, 6), 8)
    x, y = normal(*shape), normal(2, 3, 4, 6, seed=1)
    tiled = jnp.broadcast_to(x, (2, 3, 4, 5))
    expected = fused_of([tiled, y], sketches)
    np.testing.assert_allclose(fused_of([x, y], sketches), expected, atol=1e-5)
    np.testing.assert_allclose(fused_of([y, x], sketches[::-1]), expected, atol=1e-5)


def test_a_vector_costs_one_transform_not_one_for_each_position():
    sketches = sketches_of((5, 6), 8)
    vector, grid = normal(2, 1, 1, 5), normal(2, 7, 7, 6)
    assert rows_of_fft(stcb, [vector, grid], sketches) == [2, 98]


def test_three_inputs_are_the_chain_without_sketching_again():
    first, second, third = sketches = sketches_of((6, 5, 4), 11, seed=1)
    x, y, z = normal(6), normal(5, seed=1), normal(4, seed=2)
    identity = Sketch(jnp.arange(11), jnp.ones(11), 11)
    chain = fused_of([fused_of([x, y], (first, second)), z], (identity, third))
    np.testing.assert_allclose(fused_of([x, y, z], sketches), chain, atol=1e-4)


def test_is_linear_in_each_input():
    sketches = sketches_of((5, 4), 7)
    a, b, y = normal(5), normal(5, seed=1), normal(4, seed=2)
    together = fused_of([2 * a + b, y], sketches)
    apart = 2 * fused_of([a, y], sketches) + fused_of([b, y], sketches)
    np.testing.assert_allclose(together, apart, atol=1e-5)
    assert not fused_of([jnp.zeros(5), y], sketches).any()


# Statistics over sketches


@functools.cache
def similar_inputs(m, p=128):
    """Two non-negative inputs for each of m places, alike: cosine about 0.95."""
    rng = np.random.default_rng(0)
    base = rng.uniform(size=(m, 1, p))
    return np.maximum(base + 0.15 * rng.normal(size=(m, 2, p)), 0).astype(np.float32)


@functools.cache
def estimates(m, d, draws=200, shared=False):
    """<stcb(x), stcb(y)> of many independent draws of the sketches."""
    x = jnp.asarray(similar_inputs(m))

    def estimate(key):
        sketches = make_sketches(key, (x.shape[-1],) * m, d)
        sketches = sketches[:1] * m if shared else sketches
        first, second = stcb(list(x), sketches)
        return first @ second

    keys = jax.random.split(jax.random.key(7), draws)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(estimate, keys))(keys))


@pytest.mark.parametrize(
    ("m", "d", "known"), [(2, 1024, 0.082), (2, 4096, 0.042), (3, 1024, 0.121)]
)
def test_inner_products_are_unbiased_with_the_known_spread(m, d, known):
    """The mean lies within four standard errors. The spread, to first order in 1/d, is

        var / mean^2 = (prod (1 + 1 / cos_i^2) + 2^m - 2) / d

    (pairs of products that meet in a bin either repeat themselves or swap). `known` is measured
    elsewhere on other inputs, so it is met roughly.
    """
    x, y = np.moveaxis(similar_inputs(m), 1, 0).astype(np.float64)
    inner = (x * y).sum(-1)
    relative = estimates(m, d) / inner.prod()
    assert abs(relative.mean() - 1) < 4 * relative.std() / np.sqrt(relative.size)
    cosine2 = inner**2 / ((x * x).sum(-1) * (y * y).sum(-1))
    predicted = np.sqrt((np.prod(1 + 1 / cosine2) + 2**m - 2) / d)
    assert relative.std() == pytest.approx(predicted, rel=0.25)
    assert relative.std() == pytest.approx(known, rel=0.4)


def test_one_sketch_for_all_inputs_is_biased():
    """It estimates the permanent of the Gram matrix: here twice what it should."""
    x, y = np.moveaxis(similar_inputs(2), 1, 0).astype(np.float64)
    gram = x @ y.T
    permanent = gram[0, 0] * gram[1, 1] + gram[0, 1] * gram[1, 0]
    assert permanent > 1.4 * gram[0, 0] * gram[1, 1]
    assert estimates(2, 1024, shared=True).mean() == pytest.approx(permanent, rel=0.05)


def test_order_of_the_inputs_matters():
    """What is left after a swap is cos(x, y)^2, here almost nothing; one sketch would leave 1."""
    sketches = sketches_of((128, 128), 1024)
    x, y = normal(128), normal(128, seed=1)

    def cosine_after_swap(sketches):
        fused, swapped = (np.asarray(fused_of(pair, sketches)) for pair in ([x, y], [y, x]))
        return fused @ swapped / np.linalg.norm(fused) / np.linalg.norm(swapped)

    assert abs(cosine_after_swap(sketches)) < 0.2
    assert cosine_after_swap(sketches[:1] * 2) == pytest.approx(1, abs=1e-4)


# The sketches


def test_sketches_are_uniform_and_independent():
    first, second = make_sketches(jax.random.key(0), (20000, 20000), 10)
    for sketch in (first, second):
        assert sketch.output_dim == 10
        # Four standard deviations of a bin's count, sqrt(20000 * 0.1 * 0.9) = 42.
        assert abs(np.bincount(sketch.hash, minlength=10) - 2000).max() < 170
        assert set(np.asarray(sketch.sign)) == {-1.0, 1.0}
        assert abs(float(sketch.sign.mean())) < 4 / np.sqrt(20000)
    # Equal sizes, different draws: one bin in ten and one sign in two agree by chance.
    assert np.mean(first.hash == second.hash) == pytest.approx(0.1, abs=0.01)
    assert np.mean(first.sign == second.sign) == pytest.approx(0.5, abs=0.02)
    assert np.mean((first.hash % 2 == 0) == (first.sign > 0)) == pytest.approx(0.5, abs=0.02)


def test_sketches_depend_on_their_key_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002 (the global one is to be left alone)
    first = make_sketches(jax.random.key(3), (20000, 20000), 10)
    again = jax.jit(lambda key: make_sketches(key, (20000, 20000), 10))(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = make_sketches(jax.random.key(4), (20000, 20000), 10)
    assert (first[0].hash != other[0].hash).any()
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002 (as above)


def test_sketch_is_a_pytree_that_keeps_its_dimension():
    (sketch,) = sketches_of((5,), 7)
    leaves, structure = jax.tree.flatten(sketch)
    assert len(leaves) == 2
    assert jax.tree.unflatten(structure, leaves).output_dim == 7


def test_count_sketch_keeps_every_feature_once():
    (sketch,) = sketches_of((6,), 4)
    matrix = np.asarray(count_sketch(jnp.eye(6), sketch))
    assert (np.abs(matrix).sum(1) == 1).all()
    np.testing.assert_array_equal(matrix[np.arange(6), sketch.hash], sketch.sign)


# Gradients


@pytest.mark.parametrize("d", [6, 7])
def test_gradients_of_stcb(d):
    sketches = sketches_of((4, 3, 5), d)
    features = [normal(2, 1, 4), normal(3, seed=1), normal(1, 2, 5, seed=2)]
    fuse = jax.jit(lambda *x: stcb(x, sketches))
    check_grads(fuse, features, order=1, atol=2e-2, rtol=2e-2)


def test_gradients_of_signed_sqrt_l2():
    # Away from zero, where a difference quotient cannot follow the square root.
    x = normal(3, 4) + jnp.sign(normal(3, 4))
    check_grads(jax.jit(signed_sqrt_l2), [x], order=1, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("x", [np.zeros(4), np.array([0.0, 1e-30, -1e-12, 1.0])], ids=str)
def test_gradients_at_zero_are_finite(x, dtype):
    x = jnp.asarray(x, dtype)
    value, gradient = jax.value_and_grad(lambda x: signed_sqrt_l2(x)[0].astype(jnp.float32))(x)
    assert np.isfinite(value)
    if dtype == "float16":  # The slope, 1/epsilon at most, is above 65504: only infinite, not NaN.
        assert not np.isnan(gradient).any()
    else:
        assert np.isfinite(gradient.astype(jnp.float32)).all()


def test_zero_inputs_have_finite_gradients_through_everything():
    sketches = sketches_of((4, 4), 8)
    for y in (jnp.zeros(4), normal(4)):
        objective = jax.jit(lambda x, y: signed_sqrt_l2(stcb([x, y], sketches)).sum())
        assert np.isfinite(jax.grad(objective)(jnp.zeros(4), y)).all()


# signed_sqrt_l2


def test_signed_sqrt_l2_is_its_formula():
    x = normal(3, 5)
    root = np.sign(x) * np.sqrt(np.abs(x))
    expected = root / np.linalg.norm(root, axis=-1, keepdims=True)
    np.testing.assert_allclose(signed_sqrt_l2(x), expected, atol=1e-5)
    np.testing.assert_allclose(signed_sqrt_l2(x.T, axis=0), expected.T, atol=1e-5)
    assert not signed_sqrt_l2(jnp.zeros((2, 3))).any()


def test_signed_sqrt_l2_is_of_each_location_not_of_the_map():
    x = normal(2, 3, 3, 8)
    louder = x.at[0, 1, 2].multiply(100.0)
    np.testing.assert_allclose(signed_sqrt_l2(louder), signed_sqrt_l2(x), atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(signed_sqrt_l2(x), axis=-1), 1, atol=1e-5)


# Where and in what precision it runs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_is_kept_and_costs_only_rounding(dtype):
    sketches = sketches_of((64, 64), 33)
    features = [normal(64).astype(dtype), normal(64, seed=1).astype(dtype)]
    fused = stcb(features, sketches)
    assert fused.dtype == count_sketch(features[0], sketches[0]).dtype == jnp.dtype(dtype)
    assert signed_sqrt_l2(fused).dtype == jnp.dtype(dtype)
    exact = outer_product(features, sketches)
    # Only the result is rounded: half a unit in the last place, and float32's own error.
    np.testing.assert_allclose(
        np.asarray(fused, np.float64), exact, rtol=jnp.finfo(dtype).eps, atol=1e-4
    )


def test_spectra_above_float16_do_not_overflow():
    """Three spectra of 128 equal features multiply to far more than 65504; the result does not."""
    sketches = tuple(Sketch(jnp.arange(128), jnp.ones(128), 128) for _ in range(3))
    x = jnp.full(128, 0.5, jnp.float16)
    assert float(jnp.fft.rfft(x.astype(jnp.float32))[0].real) ** 3 > 2e5
    np.testing.assert_allclose(
        np.asarray(stcb([x, x, x], sketches), np.float32), 128**2 / 8, rtol=1e-3
    )


def test_mixed_dtypes_promote():
    sketches = sketches_of((4, 4), 8)
    half, full = normal(4).astype(jnp.float16), normal(4)
    assert stcb([half, full], sketches).dtype == jnp.float32
    assert stcb([half, half.astype(jnp.bfloat16)], sketches).dtype == jnp.float32


def test_jit_and_vmap_change_nothing():
    sketches = sketches_of((5, 4), 7)
    x, y = normal(3, 5), normal(3, 4, seed=1)
    expected = stcb([x, y], sketches)
    np.testing.assert_allclose(fused_of([x, y], sketches), expected, atol=1e-5)
    mapped = jax.jit(jax.vmap(stcb, in_axes=(0, None)))([x, y], sketches)
    np.testing.assert_allclose(mapped, expected, atol=1e-5)
    # Also over sketches: an ensemble of draws.
    draws = [sketches_of((5, 4), 7, seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *draws)
    ensemble = jax.jit(jax.vmap(stcb, in_axes=(None, 0)))([x, y], stacked)
    second = fused_of([x, y], draws[1])
    np.testing.assert_allclose(ensemble[1], second, atol=1e-5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sharded_over_a_mesh(kind):
    """Batch over one axis, features over the other."""
    sketches = sketches_of((6, 6), 9)
    x, y = normal(8, 1, 1, 6), normal(8, 2, 3, 6, seed=1)
    weights = normal(8, 2, 3, 9, seed=2)

    def objective(x, y):
        fused = signed_sqrt_l2(stcb([x, y], sketches))
        return (fused * weights).sum(), fused

    expected = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(x, y)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    features = NamedSharding(mesh, P("data", None, None, "model"))
    with jax.set_mesh(mesh):
        x, y = (jax.device_put(a, features) for a in (x, y))
        weights = jax.device_put(weights, NamedSharding(mesh, P("data")))
        step = jax.jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))
        actual = step(x, y)
    assert len(actual[0][1].sharding.device_set) == 8
    assert actual[0][1].sharding.shard_shape((8, 2, 3, 9))[0] == 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), b, atol=1e-4), actual, expected
    )


# Errors say what, the value, and what to do

KEY, TWO = jax.random.key(0), sketches_of((4, 4), 8)
ONES = jnp.ones(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_sketches(KEY, (), 8), r"input_dims=\(\), output_dim=8: .*one input"),
        (lambda: make_sketches(KEY, (4, 0), 8), r"input_dims=\(4, 0\).*1 or more"),
        (lambda: make_sketches(KEY, (4,), 0), r"output_dim=0.*1 or more"),
        (lambda: stcb([], ()), "0 features for 0 sketches"),
        (lambda: stcb([ONES], TWO), "1 features for 2 sketches: give one sketch each"),
        (
            lambda: stcb([ONES, ONES], (TWO[0], *sketches_of((4,), 9))),
            r"different output_dim \[8, 9\]",
        ),
        (lambda: stcb([jnp.ones(5), ONES], TWO), r"shape \(5,\) do not end in 4"),
        (lambda: stcb([jnp.ones((2, 4)), jnp.ones((3, 4))], TWO), r"\(2,\).*\(3,\)"),
        (lambda: count_sketch(jnp.float32(1), TWO[0]), r"shape \(\) do not end in 4"),
        (lambda: count_sketch(jnp.arange(4), TWO[0]), "dtype int32: give floating features"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integer_features_are_refused_whatever_their_company():
    with pytest.raises(ValueError, match="dtype int32: give floating features"):
        stcb([jnp.arange(4), ONES], TWO)
