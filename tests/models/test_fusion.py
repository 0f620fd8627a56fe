"""The modules around the operator: where sketches live, and what attention does with guidance."""

import flax.errors
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stpyramid_jax.models.fusion import STCB, Attention, over_lines, unit_rms
from stpyramid_jax.ops.attention import attention_pool
from stpyramid_jax.ops.stcb import Sketch, stcb
from stpyramid_jax.performance import compiler_options

RNG = np.random.default_rng(0)
X, Y = jnp.asarray(RNG.normal(size=(2, 3, 6)), jnp.float32)


def sketch_of(seed=0, level=1, key=0):
    variables = STCB(16, seed, level).init(jax.random.key(key), [X, Y])
    assert set(variables) == {"sketch"}  # nothing an optimizer could reach
    return variables["sketch"]["inputs"]


def equal(a, b):
    return [bool((a[i][name] == b[i][name]).all()) for i in (0, 1) for name in ("hash", "sign")]


def test_is_the_operator_with_the_sketches_of_its_variables():
    module = STCB(16, seed=0, level=1)
    fused, variables = module.init_with_output(jax.random.key(0), [X, Y])
    sketches = [Sketch(a["hash"], a["sign"], 16) for a in variables["sketch"]["inputs"]]
    np.testing.assert_allclose(fused, stcb([X, Y], sketches), atol=1e-5)
    assert not np.array_equal(sketches[0].hash, sketches[1].hash)


def test_sketch_comes_from_its_seed_and_level_not_from_the_parameters_key():
    sketch = sketch_of()
    assert all(equal(sketch, sketch_of(key=1)))
    assert not any(equal(sketch, sketch_of(seed=1)))
    assert not any(equal(sketch, sketch_of(level=2)))


def test_sketch_is_saved_and_what_was_saved_is_used():
    """Restored into a module of another seed it still gives the first one's features."""
    first, second = STCB(16, seed=0, level=1), STCB(16, seed=1, level=1)
    fused, variables = first.init_with_output(jax.random.key(0), [X, Y])
    other = second.init(jax.random.key(0), [X, Y])
    assert not np.allclose(second.apply(other, [X, Y]), fused, atol=0.1)
    restored = flax.serialization.from_bytes(other, flax.serialization.to_bytes(variables))
    np.testing.assert_allclose(second.apply(restored, [X, Y]), fused, atol=1e-6)


def test_a_lost_sketch_is_not_drawn_again_in_silence():
    with pytest.raises(flax.errors.ScopeCollectionNotFound, match="sketch"):
        STCB(16, seed=0, level=1).apply({}, [X, Y])


def test_unit_rms_is_of_each_location():
    x = jnp.asarray(RNG.normal(size=(2, 3, 3, 8)), jnp.float32)
    normalized = unit_rms(x)
    np.testing.assert_allclose((normalized**2).mean(-1), 1, rtol=1e-4)
    np.testing.assert_allclose(unit_rms(x.at[0, 1, 2].multiply(50.0)), normalized, atol=1e-4)
    assert unit_rms(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_attention_without_a_difference_in_guidance_is_average_pooling():
    features = jnp.asarray(RNG.normal(size=(2, 3, 4, 5)), jnp.float32)
    guidance = jnp.broadcast_to(jnp.asarray(RNG.normal(size=(2, 1, 1, 7))), (2, 3, 4, 7))
    scores, _ = Attention().init_with_output(jax.random.key(0), guidance)
    pooled, weights = attention_pool(features, scores)
    np.testing.assert_allclose(weights, 1 / 12, rtol=1e-5)
    np.testing.assert_allclose(pooled, features.mean((1, 2)), atol=1e-5)


def test_attention_is_the_two_layers_of_the_paper():
    """conv 1x1 to 64, ReLU, conv 1x1 to 1: 131,136 and 65 parameters for 2048 bins."""
    guidance = jnp.ones((1, 2, 2, 2048))
    scores, variables = jax.eval_shape(Attention().init_with_output, jax.random.key(0), guidance)
    count = {
        name: sum(leaf.size for leaf in jax.tree.leaves(layer))
        for name, layer in variables["params"].items()
    }
    assert count == {"hidden": 131_136, "score": 65}
    assert scores.shape == (1, 2, 2)


class Level(nn.Module):
    """A level with sketches and parameters, over lines or over whole maps."""

    lines: bool

    @nn.compact
    def __call__(self, *maps):
        return over_lines(Level.scores, self, *maps) if self.lines else self.scores(*maps)

    def scores(self, *maps):
        return Attention(name="attention")(jnp.tanh(STCB(16, 0, 2, name="stcb")(maps)))


@pytest.mark.slow
@pytest.mark.parametrize("guide", [(2, 3, 4, 5), (2, 1, 1, 5)], ids=["map", "vector"])
def test_over_lines_is_the_level_over_whole_maps(guide):
    """The same variables, values and gradients."""
    maps = [jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((2, 3, 4, 6), guide)]
    whole, variables = Level(lines=False).init_with_output(jax.random.key(0), *maps)
    lined, same = Level(lines=True).init_with_output(jax.random.key(0), *maps)
    assert jax.tree.structure(variables) == jax.tree.structure(same)
    np.testing.assert_allclose(lined, whole, atol=1e-6)

    def gradients(lines):
        def loss(params, *maps):
            given = {**variables, "params": params}
            return (Level(lines).apply(given, *maps) ** 2).sum()

        return jax.grad(loss, argnums=(0, 1, 2))(variables["params"], *maps)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradients(True),
        gradients(False),
    )


class AttentionLevel(nn.Module):
    """Level 2 as the pyramid has it, from two maps to the pooled one."""

    @nn.compact
    def __call__(self, spatial, motion):
        return attention_pool(spatial, over_lines(AttentionLevel.scores, self, spatial, motion))[0]

    def scores(self, *maps):
        return Attention(name="attention")(unit_rms(STCB(2048, 0, 2, name="level2")(maps)))


def test_attention_takes_no_more_memory_than_twice_its_inputs_and_results():
    """Forward and backward at the size of model D, as planned by the compiler."""
    maps = [jax.ShapeDtypeStruct((32, 7, 7, 1024), jnp.float32)] * 2
    level = AttentionLevel()
    variables = jax.eval_shape(level.init, jax.random.key(0), *maps)

    def step(variables, cotangent, *maps):
        def forward(params, *maps):
            return level.apply({**variables, "params": params}, *maps)

        return jax.vjp(forward, variables["params"], *maps)[1](cotangent)

    cotangent = jax.ShapeDtypeStruct((32, 1024), jnp.float32)
    compiled = jax.jit(step, compiler_options=compiler_options())
    plan = compiled.lower(variables, cotangent, *maps).compile().memory_analysis()
    moved = plan.argument_size_in_bytes + plan.output_size_in_bytes
    assert plan.temp_size_in_bytes < moved
