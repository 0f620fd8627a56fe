"""One update: what it moves, what it leaves, and that devices do not change it."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from stpyramid_jax.models.pyramid import ModelConfig, Outputs, create_model, named_model
from stpyramid_jax.training.optimizer import OptimizerConfig, make_optimizer, schedule
from stpyramid_jax.training.sharding import AXES, replicated, shard_batch
from stpyramid_jax.training.state import TrainState
from stpyramid_jax.training.step import attention_entropy, loss_fn, train_step

SOLVER = OptimizerConfig(learning_rate=0.1, clip_norm=1.0)


def model_of(name, backbone="convnet", **fields):
    return create_model(
        ModelConfig(
            num_classes=5,
            backbone=backbone,
            snippet_length=2,
            sketch_dims=(32, 32, 64),
            head_std=0.1,
            **named_model(name),
            **fields,
        )
    )


def batch_of(model, rows=8, seed=0):
    rng = np.random.default_rng(seed)
    batch = {"label": rng.integers(0, 5, rows).astype(np.int32)}
    if model.config.uses_rgb:
        batch["rgb"] = rng.integers(0, 256, (rows, 16, 16, 3), np.uint8)
    if model.config.uses_flow:
        shape = (rows, model.config.snippets, 16, 16, 4)
        batch["flow"] = rng.integers(0, 256, shape, np.uint8)
    return batch


@functools.cache
def compiled(model, solver=SOLVER, **options):
    """A fresh state, and the step, both compiled once for all tests of a model."""
    optimizer = make_optimizer(solver, model.config.partial_bn)

    def init(key, batch):
        variables = dict(model.init(key, batch, train=False))
        params = variables.pop("params")
        return TrainState(jnp.int32(0), params, variables, optimizer.init(params))

    step = functools.partial(
        train_step, model=model, optimizer=optimizer, rate=schedule(solver, 8), **options
    )
    return jax.jit(init), jax.jit(step)


def mesh_of(devices):
    kinds = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh((devices, 1), AXES, kinds, devices=jax.devices()[:devices])


def run(model, batch, devices=1, steps=1, **options):
    """States and metrics before and after each of some steps, from a fixed start."""
    init, step = compiled(model, **options)
    mesh = mesh_of(devices)
    # Placed as the step leaves it, or the second step would be compiled again.
    state = jax.device_put(init(jax.random.key(0), batch), replicated(mesh))
    states, metrics = [state], []
    for _ in range(steps):
        with jax.set_mesh(mesh):
            state, figures = step(state, shard_batch(batch, mesh), jax.random.key(1))
        states.append(state)
        metrics.append({name: float(value) for name, value in figures.items()})
    return states, metrics


@pytest.mark.slow
def test_golden_losses_of_three_steps():
    """Change these only with a reason: they move when the network, its initial weights, the
    sketches, the loss or the solver do."""
    model = model_of("D")
    _, metrics = run(model, batch_of(model), steps=3)
    losses = [figures["loss"] for figures in metrics]
    np.testing.assert_allclose(losses, GOLDEN, rtol=1e-3)


GOLDEN = [1.786515, 1.542864, 0.941231]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spatial", "temporal", "A", "B", "C", "D"])
def test_loss_falls_and_only_the_sketch_stays(name):
    model = model_of(name, dropout=0.0)
    states, metrics = run(model, batch_of(model), steps=8)
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    before, after = states[0], states[-1]
    jax.tree.map(
        np.testing.assert_array_equal,
        before.collections.get("sketch", {}),
        after.collections.get("sketch", {}),
    )
    still = [
        jax.tree_util.keystr(path)
        for path, same in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(lambda a, b: bool((a == b).all()), before.params, after.params)
        )
        if same
    ]
    assert not still
    statistics = jax.tree.map(
        lambda a, b: bool((a == b).all()),
        before.collections["batch_stats"],
        after.collections["batch_stats"],
    )
    assert not any(jax.tree.leaves(statistics))
    assert int(after.step) == 8


@pytest.mark.slow
def test_eight_devices_equal_one():
    model = model_of("D")
    batch = batch_of(model, rows=16)
    (start, one), metrics_one = run(model, batch, devices=1)
    (_, eight), metrics_eight = run(model, batch, devices=8)
    assert metrics_one[0]["loss"] == pytest.approx(metrics_eight[0]["loss"], rel=1e-5)
    # Norms were seen up to 1.9e-4 apart (jax 0.12): other orders of summation round otherwise.
    assert metrics_one[0] == pytest.approx(metrics_eight[0], rel=3e-4)

    # Sums over the batch run in another order: updates agree to thousandths of their size. (That
    # of the attention's last bias is zero: a softmax does not see it.)
    def agree(before, a, b):
        size = float(jnp.abs(a - before).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-3 * size + 1e-7)

    host = [jax.tree.map(np.asarray, state.params) for state in (start, one, eight)]
    jax.tree.map(agree, *host)


def test_fused_scores_train_each_stream_alone():
    """The gradient of one stream of model A does not depend on the other's input."""
    model = model_of("A", dropout=0.0)
    batch = batch_of(model)
    other = {**batch, "rgb": 255 - batch["rgb"]}
    one, _ = run(model, batch)
    two, _ = run(model, other)
    # Clipping couples the streams by one common factor, so directions are compared.
    moved = [
        np.ravel(after.params["temporal_head"]["bias"] - before.params["temporal_head"]["bias"])
        for before, after in (one, two)
    ]
    directions = [m / np.linalg.norm(m) for m in moved]
    assert directions[0] @ directions[1] == pytest.approx(1, abs=1e-4)


def test_scores_beside_the_pyramid_learn_by_losses_of_their_own():
    """What the pyramid alone learns from does not change; each stream's scores learn as well."""
    beside, alone = (model_of("D", dropout=0.0, stream_scores=given) for given in (True, False))
    batch = batch_of(beside)
    variables = jax.jit(lambda key: beside.init(key, batch, train=False))(jax.random.key(0))

    def gradients(model):
        def loss(params):
            outputs = model.apply({**variables, "params": params}, batch, train=False)
            return loss_fn(outputs, batch["label"])

        return jax.jit(jax.grad(loss))(variables["params"])

    one, two = gradients(beside), gradients(alone)
    for part in ("head", "attention"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one[part], two[part])
    for part in ("spatial_scores", "temporal_scores"):
        assert jnp.abs(one[part]["kernel"]).max() > 0
        assert jnp.abs(two[part]["kernel"]).max() == 0


def test_dropout_differs_from_step_to_step_and_repeats_with_the_key():
    model = model_of("spatial", dropout=0.5)
    _, first = run(model, batch_of(model), steps=2)
    _, again = run(model, batch_of(model), steps=2)
    assert first == again
    still = model_of("spatial", dropout=0.0)
    assert run(still, batch_of(still), steps=1)[1] != first[:1]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["convnet", "resnet18"])
def test_partial_batch_norm_moves_the_first_norm_only(backbone):
    """Scale, offset and statistics of all others stay, bit for bit; their convolutions learn."""
    model = model_of("A", backbone=backbone, partial_bn=True)
    (before, after), _ = run(model, batch_of(model))
    for stream in ("spatial", "temporal"):
        moved = {}
        for tree in ("params", "batch_stats"):
            pair = (before.variables[tree][stream], after.variables[tree][stream])
            for path, still in jax.tree_util.tree_leaves_with_path(jax.tree.map(equal, *pair)):
                moved["/".join(key.key for key in path)] = not still
        norms = {path: value for path, value in moved.items() if "norm" in path}
        assert {path for path, value in norms.items() if value} == {
            f"norm1/{name}" for name in ("scale", "bias", "mean", "var")
        }
        assert len(norms) > 4
        assert all(value for path, value in moved.items() if "norm" not in path)


def equal(a, b):
    return bool((a == b).all())


CLIP_NORMS = {"spatial_clip_norm": 0.4, "temporal_clip_norm": 0.2}
TSN = OptimizerConfig(0.02, boundaries=(2,), temporal_multiplier=5.0, **CLIP_NORMS)


@pytest.mark.slow
def test_two_streams_at_once_learn_as_each_alone():
    """Model A under both solvers of TSN: parts of a step do not know of each other."""
    both = model_of("A", dropout=0.0)
    batch = batch_of(both)
    states, metrics = run(both, batch, steps=3, solver=TSN)
    for stream in ("spatial", "temporal"):
        alone = model_of(stream, dropout=0.0)
        single, figures = run(alone, batch, steps=3, solver=TSN)
        norms = [figure[f"gradient_norm/{stream}"] for figure in figures]
        assert min(norms) > CLIP_NORMS[f"{stream}_clip_norm"]  # clipping is at work
        assert norms == pytest.approx([m[f"gradient_norm/{stream}"] for m in metrics], rel=1e-3)
        for tree in ("params", "batch_stats"):
            for name, one in single[-1].variables[tree].items():
                before, two = (states[k].variables[tree][name] for k in (0, -1))
                jax.tree.map(close, before, one, two)


def close(before, a, b):
    """Alike to thousandths of how far they moved."""
    moved = float(jnp.abs(a - before).max())
    assert moved > 0
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-3 * moved + 1e-7)


class Plain(nn.Module):
    """A stream without batch normalisation, which would see each part of a batch on its own."""

    config: ModelConfig

    @nn.compact
    def __call__(self, inputs, *, train):
        x = inputs["rgb"].reshape(len(inputs["rgb"]), -1) / 255
        x = nn.relu(nn.Dense(8, name="spatial")(x))
        x = nn.Dropout(self.config.dropout, deterministic=not train)(x)
        return Outputs(nn.Dense(self.config.num_classes, name="head")(x), None, {}, {})


def plain(dropout=0.0):
    return Plain(ModelConfig(5, streams="spatial", attention=False, dropout=dropout))


@pytest.mark.parametrize("clip_norm", [1e-3, 1e3])
def test_parts_of_a_batch_give_the_step_of_the_whole(clip_norm):
    model, batch = plain(), batch_of(plain())
    solver = OptimizerConfig(learning_rate=0.1, clip_norm=clip_norm)
    (before, whole), (one,) = run(model, batch, solver=solver, label_smoothing=0.1)
    (_, parts), (four,) = run(model, batch, solver=solver, label_smoothing=0.1, accumulate=4)
    assert (one["gradient_norm"] > clip_norm) == (clip_norm < 1)
    assert one == pytest.approx(four, rel=1e-3)
    jax.tree.map(close, before.params, whole.params, parts.params)


@pytest.mark.slow
def test_statistics_go_from_part_to_part_in_order():
    """As if the parts, every second row from one on, were batches of their own."""
    model = model_of("spatial", dropout=0.0)
    batch = batch_of(model)
    (before, after), _ = run(model, batch, accumulate=2)
    variables = before.variables
    for i in range(2):
        rows = {name: array[i::2] for name, array in batch.items()}
        _, moved = model.apply(variables, rows, train=True, mutable=["batch_stats"])
        variables = {**variables, **moved}
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
        after.collections["batch_stats"],
        variables["batch_stats"],
    )


def test_each_part_draws_its_own_dropout(monkeypatch):
    """Two parts of the same rows get different scores."""
    model = plain(dropout=0.5)
    batch = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), batch_of(model, rows=1))
    seen = []

    def spy(outputs, labels, smoothing):
        jax.debug.callback(lambda scores: seen.append(np.asarray(scores)), outputs.logits)
        return loss_fn(outputs, labels, smoothing)

    monkeypatch.setattr("stpyramid_jax.training.step.loss_fn", spy)
    run(model, batch, accumulate=2)
    jax.effects_barrier()
    first, second = seen
    assert np.abs(first - second).max() > 1e-3


def test_no_row_moves_between_devices():
    """Of the collective operations of a step only sums are compiled, however it is cut."""
    model, mesh = plain(), mesh_of(8)
    batch = batch_of(model, rows=32)
    init, step = compiled(model, accumulate=4)
    state = jax.eval_shape(init, jax.random.key(0), batch)
    with jax.set_mesh(mesh):
        lowered = step.lower(state, shard_batch(batch, mesh), jax.random.key(1))
    text = lowered.compile().as_text()
    kinds = re.findall(r" (all-[a-z-]+|collective-[a-z]+|reduce-scatter)\(", text)
    assert set(kinds) == {"all-reduce"}


def test_a_step_moves_nothing_between_host_and_device():
    model = plain(dropout=0.5)
    init, step = compiled(model, accumulate=2, label_smoothing=0.1)
    batch = jax.device_put(batch_of(model))
    state, key = init(jax.random.key(0), batch), jax.random.key(1)
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            state, metrics = step(state, batch, key)
    assert int(state.step) == 2
    assert step._cache_size() == 1
    assert np.isfinite(float(metrics["loss"]))


def test_smoothed_labels_are_a_mixture_with_chance():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(6, 5)).astype(np.float32), np.array([0, 1, 4, 2, 2, 3])
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    hard = -logs[np.arange(6), labels].mean()
    for outputs, times in (
        (Outputs(scores, None, {}, {}), 1),
        (Outputs(scores, None, {"spatial": scores, "temporal": scores}, {}), 2),
    ):
        assert float(loss_fn(outputs, labels)) == pytest.approx(times * hard, rel=1e-5)
        smooth = 0.7 * hard + 0.3 * -logs.mean()
        assert float(loss_fn(outputs, labels, 0.3)) == pytest.approx(times * smooth, rel=1e-5)


def test_entropy_of_attention_is_a_share_of_the_largest():
    uniform, single = np.full((2, 3, 5), 1 / 15), np.zeros((2, 3, 5))
    single[:, 1, 1] = 1
    half = np.zeros((1, 4, 4))
    half[0, :2, :2] = 0.25
    for weights, expected in ((uniform, 1), (single, 0), (half, 0.5), (np.ones((3, 1, 1)), 1)):
        got = float(attention_entropy(jnp.asarray(weights, jnp.float32)))
        assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_metrics_tell_norms_by_part_and_the_rate_of_the_step():
    solver = OptimizerConfig(learning_rate=0.2, batch_size=16, boundaries=(1,))
    model = model_of("D", dropout=0.0)
    _, metrics = run(model, batch_of(model), steps=2, solver=solver)
    assert [figures["learning_rate"] for figures in metrics] == pytest.approx([0.1, 0.01])
    for figures in metrics:
        parts = {name for name in figures if name.startswith("gradient_norm/")}
        assert parts == {f"gradient_norm/{p}" for p in ("spatial", "temporal", "attention", "head")}
        whole = np.sqrt(sum(figures[name] ** 2 for name in parts))
        assert figures["gradient_norm"] == pytest.approx(whole, rel=1e-4)
        assert 0 < figures["attention_entropy"] <= 1 + 1e-6
    _, (without,) = run(model_of("spatial"), batch_of(model_of("spatial")))
    assert "attention_entropy" not in without


@pytest.mark.slow
def test_frozen_norms_have_no_part_in_the_norms():
    """All of a stream's gradient but that of the frozen norms, computed without a step."""
    model = model_of("spatial", dropout=0.0, partial_bn=True)
    batch = batch_of(model)
    (before, _), (figures,) = run(model, batch)

    def objective(params):
        outputs, _ = model.apply(
            {**before.variables, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        return loss_fn(outputs, batch["label"])

    gradients = jax.tree_util.tree_leaves_with_path(jax.grad(objective)(before.params)["spatial"])
    learnt = [
        g
        for path, g in gradients
        if not re.match(r"norm(?!1$)", path[-2].key)  # convolutions, and the first norm
    ]
    assert len(learnt) < len(gradients)
    norm = np.sqrt(sum(float((g**2).sum()) for g in learnt))
    assert figures["gradient_norm/spatial"] == pytest.approx(norm, rel=1e-3)
