"""Runs, unbroken and broken: the same bits; on other devices: the same but for rounding."""

import contextlib
import dataclasses
import json
import random

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from configs import quickstart
from stpyramid_jax.experiment import build_experiment
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.training import loop
from stpyramid_jax.training.checkpoint import Checkpoints, load_trained
from stpyramid_jax.training.interruption import Interrupted
from stpyramid_jax.training.sharding import MeshConfig, make_mesh
from tests.training.conftest import alike

pytestmark = pytest.mark.slow  # each compiles a step

STEPS = 40
STOPS = 10


@pytest.fixture(scope="module")
def shards(sprites):
    return Shards(sprites / "shards")


def experiment_of(shards, model="spatial", validation=0.0, **training):
    """The quickstart, small; every key of `training` is one of that section."""
    config = quickstart.get_config(f"model={model}")
    config.data.update(dir=str(shards.directory), validation=validation)
    config.input.update(crop=16, threads=2)
    config.model.update(snippet_length=2, sketch_dims=(32, 32, 64), dropout=0.5)
    config.optimizer.warmup = 0
    config.training.update({"steps": 4, "batch_size": 8, "checkpoint_every": 100} | training)
    return build_experiment(config.to_dict(), len(shards.classes))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
    jax.tree.map(np.testing.assert_array_equal, a.opt_state, b.opt_state)


@pytest.fixture
def compiled_once(monkeypatch):
    """Every run of a test has the step of its first."""
    kept = []
    fresh = loop._compile

    def compile(run, state):
        if not kept:
            kept.append(fresh(run, state))
        return kept[0]

    monkeypatch.setattr(loop, "_compile", compile)


def stopped_at(steps, monkeypatch):
    """Makes runs stop before the steps, as if a signal had come."""
    monkeypatch.setattr(loop, "interruption", lambda: contextlib.nullcontext(steps.__contains__))


@pytest.mark.usefixtures("compiled_once")
def test_a_run_stopped_at_random_steps_ends_with_the_same_bits(
    shards, tmp_path, monkeypatch, capsys
):
    experiment = experiment_of(shards, steps=STEPS)
    whole = loop.train(experiment, shards, tmp_path / "whole")
    steps = sorted(random.Random(0).sample(range(1, STEPS), STOPS))
    stopped_at(steps, monkeypatch)
    for step in steps:
        with pytest.raises(Interrupted, match=f"at step {step}, which is saved"):
            loop.train(experiment, shards, tmp_path / "broken")
        assert f"resumed from step {step}" not in capsys.readouterr().err
    broken = loop.train(experiment, shards, tmp_path / "broken")
    same(whole, broken)
    assert int(broken.step) == STEPS
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line)["step"] for line in lines]
    assert logged == sorted({*steps, 20, STEPS})  # each once


@pytest.mark.usefixtures("compiled_once")
def test_another_batch_size_goes_on_at_the_next_sample(shards, tmp_path, monkeypatch):
    asked = []
    iterator = loop.train_iterator

    def note(*arguments, start, **more):
        asked.append(start)
        return iterator(*arguments, start=start, **more)

    monkeypatch.setattr(loop, "train_iterator", note)
    loop.train(experiment_of(shards, steps=3), shards, tmp_path)
    larger = dataclasses.replace(experiment_of(shards).training, batch_size=16)
    monkeypatch.setattr(loop, "_compile", lambda run, state: (lambda *_: 1 / 0, 0.0))
    with pytest.raises(ZeroDivisionError):
        loop.train(dataclasses.replace(experiment_of(shards), training=larger), shards, tmp_path)
    assert asked == [0, 24]


def on_devices(count, monkeypatch):
    """Meshes of the first so many devices."""

    def mesh(config=None):
        sizes = (count // max(1, config.model), config.model) if config else (count, 1)
        kinds = (AxisType.Auto, AxisType.Auto)
        return jax.make_mesh(sizes, ("data", "model"), kinds, devices=jax.devices()[:count])

    monkeypatch.setattr(loop, "make_mesh", mesh)


def test_a_run_goes_on_on_fewer_devices_and_on_one(shards, tmp_path, monkeypatch):
    """8 -> 4 -> 1, and from divided parameters to whole ones: the same samples, nearly the same
    numbers as on one device throughout."""
    experiment = experiment_of(shards, model="B", steps=3)
    on_devices(1, monkeypatch)
    one = loop.train(experiment, shards, tmp_path / "one")
    for steps, devices, model in ((1, 8, 2), (2, 4, 4), (3, 1, 1)):
        on_devices(devices, monkeypatch)
        training = dataclasses.replace(experiment.training, steps=steps)
        part = dataclasses.replace(experiment, training=training, mesh=MeshConfig(-1, model))
        moved = loop.train(part, shards, tmp_path / "moved")
    alike(one.variables, moved.variables)


def test_divided_parameters_train_alike_and_are_divided(shards, tmp_path):
    """FSDP over four devices: each holds a quarter of the large arrays, and of their momenta."""
    experiment = experiment_of(shards, model="D", steps=1)
    whole = loop.train(experiment, shards, tmp_path / "whole")
    divided = dataclasses.replace(experiment, mesh=MeshConfig(data=2, model=4))
    state = loop.train(divided, shards, tmp_path / "divided")
    alike(whole.variables, state.variables)
    for tree in (state.params, state.opt_state):
        kernel = tree["head"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape) == (16, 6)
        assert kernel.addressable_shards[0].data.nbytes == kernel.nbytes // 4


def test_nothing_compiles_once_a_run_is_under_way(shards, tmp_path):
    """As many compilations in nine steps as in three."""
    compiled = []

    def listen(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    counts = []
    for steps in (3, 9):
        jax.clear_caches()
        compiled.clear()
        experiment = experiment_of(shards, steps=steps, log_every=2, checkpoint_every=3)
        loop.train(experiment, shards, tmp_path / str(steps))
        counts.append(len(compiled))
    assert counts[0] == counts[1] > 0


@pytest.mark.usefixtures("compiled_once")
def test_a_hidden_transfer_is_an_error(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "shard_batch", lambda batch, mesh: batch)  # arrays of the host
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        loop.train(experiment_of(shards), shards, tmp_path)


@pytest.fixture
def validated(shards, tmp_path, monkeypatch):
    """Trains with scores that are given, by step, and gives the last step and the runs' scores."""
    experiment = experiment_of(shards, validation=0.5, steps=12, checkpoint_every=2, patience=2)
    held = []

    def train(*scores):
        left = iter(scores)

        def validate(variables, videos):
            held.append(videos)
            return next(left)

        return loop.train(experiment, shards, tmp_path, validate)

    return experiment, train, held


@pytest.mark.usefixtures("compiled_once")
def test_training_stops_when_validation_gets_no_better_and_keeps_the_best(
    validated, shards, tmp_path, capsys
):
    experiment, train, held = validated
    state = train(0.2, 0.7, 0.4, 0.6)
    assert int(state.step) == 8
    assert (
        "stopped at step 8: no better validation at the last 2 checkpoints"
        in capsys.readouterr().err
    )
    trained = load_trained(experiment, tmp_path, make_mesh())
    assert trained.history.best_step == trained.step == 4
    assert all(shards.videos[number].parts["split1"] == "train" for number in held[0])
    assert not {shards.videos[n].name for n in held[0]} & set(trained.history.seen[0].clips)
    again = train()  # asks for no score: it has stopped
    assert int(again.step) == 8


@pytest.mark.usefixtures("compiled_once")
def test_a_stopped_run_has_the_validations_of_an_unbroken_one(validated, tmp_path, monkeypatch):
    experiment, train, _ = validated
    for step, scores in ((3, [0.1]), (4, [0.2])):  # beside a checkpoint, and at one
        stopped_at([step], monkeypatch)
        with pytest.raises(Interrupted):
            train(*scores)
    stopped_at([], monkeypatch)
    train(0.1, 0.1)
    history = load_trained(experiment, tmp_path, make_mesh()).history
    assert history.validations == ((2, 0.1), (4, 0.2))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.history().validations == ((2, 0.1), (4, 0.2), (6, 0.1), (8, 0.1))


@pytest.mark.usefixtures("compiled_once")
def test_the_best_checkpoint_outlives_later_ones(validated, tmp_path):
    experiment, train, _ = validated
    train(0.1, 0.9, 0.3, 0.5)
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 6, 8]
    assert load_trained(experiment, tmp_path, make_mesh()).step == 4
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = [line["validation/mean_class_accuracy"] for line in lines if len(line) == 2]
    assert scores == [0.1, 0.9, 0.3, 0.5]


def test_a_batch_that_does_not_divide_is_refused(shards, tmp_path):
    with pytest.raises(ValueError, match="batch_size=12 on 8 devices: give a multiple of 8"):
        loop.train(experiment_of(shards, batch_size=12), shards, tmp_path)
    with pytest.raises(ValueError, match=r"batch_size=24 in 2 parts on 8 .* multiple of 16"):
        loop.train(experiment_of(shards, batch_size=24, accumulate=2), shards, tmp_path)
    assert not (tmp_path / "config.json").exists()
