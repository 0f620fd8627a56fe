"""The training loop: restore or initialise, then step, log, validate and save until done."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from stpyramid_jax.experiment import (
    Experiment,
    check_workdir,
    load_experiment,
    run_record,
    write_record,
)
from stpyramid_jax.input.pipeline import train_iterator
from stpyramid_jax.input.reading import check
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pyramid import create_model
from stpyramid_jax.performance import compiler_options, step_flops
from stpyramid_jax.progress import say
from stpyramid_jax.training import summary
from stpyramid_jax.training.checkpoint import Checkpoints
from stpyramid_jax.training.history import History, Seen, trained_on
from stpyramid_jax.training.interruption import Interrupted, interruption
from stpyramid_jax.training.interval import Interval
from stpyramid_jax.training.logging import RunLog
from stpyramid_jax.training.optimizer import make_optimizer, multipliers, schedule
from stpyramid_jax.training.sharding import make_mesh, replicated, shard_batch
from stpyramid_jax.training.state import (
    TrainState,
    abstract_batch,
    abstract_state,
    init_state,
    placed,
)
from stpyramid_jax.training.step import train_step
from stpyramid_jax.training.trace import Trace
from stpyramid_jax.training.validation import hold_out
from stpyramid_jax.training.weights import check_frozen, read_weights, with_weights

Validate = Callable[[Mapping[str, Any], np.ndarray], float]
"""Mean class accuracy of variables on the clips of some numbers."""


class Run(NamedTuple):
    """What stays the same from the first step of a run to its last."""

    experiment: Experiment
    shards: Shards
    workdir: Path
    mesh: jax.sharding.Mesh
    training: np.ndarray
    held_out: np.ndarray
    checkpoints: Checkpoints


def train(
    experiment: Experiment,
    shards: Shards,
    workdir: str | Path,
    validate: Validate | None = None,
) -> TrainState:
    """Trains to `training.steps`, from the latest checkpoint in the workdir if there is one.

    Order of initialisation: checkpoint, else `training.weights`, else random. The workdir takes
    the run's `config.json` once everything given has been checked. Every process of a run calls
    this; the first one writes.

    Args:
      validate: scores the clips held out by `data.validation`, of which there must be none without.

    Raises:
      ValueError: the workdir holds another run, weights do not fit, or the batch does not divide
        among the devices.
      FloatingPointError: a loss or an update is not finite; names the step, its clips and the
        checkpoint to go back to.
      OSError: a checkpoint cannot be written.
      Interrupted: the run was asked to stop, and has written a checkpoint.
    """
    workdir, record = Path(workdir), run_record(experiment, shards)
    check_workdir(workdir, record)
    mesh = make_mesh(experiment.mesh)
    _check_batch(experiment, mesh)
    training, held_out = hold_out(
        shards.videos, shards.select(experiment.data.split, "train"), experiment.data.validation
    )
    if len(held_out) and validate is None:
        raise ValueError("data.validation: clips are held out, and there is nothing to score them")
    check(shards, training, experiment.input)
    with jax.set_mesh(mesh), Checkpoints(workdir / "checkpoints", True) as checkpoints:
        run = Run(experiment, shards, workdir, mesh, training, held_out, checkpoints)
        state, history = _restore(run) if checkpoints.latest_step is not None else _begin(run)
        if checkpoints.latest_step is not None:
            # What the run started from stays on record, whatever is asked for now.
            began = load_experiment(workdir)[0].training.weights
            record = record | {"training": record["training"] | {"weights": began}}
        if jax.process_index() == 0:
            write_record(workdir, record)
            _describe(run, state)
        if _finished(experiment, state, history):
            return state
        return _steps(run, state, history, record, validate)


def _check_batch(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    training = experiment.training
    if training.batch_size // training.accumulate % mesh.size:
        parts = f" in {training.accumulate} parts" if training.accumulate > 1 else ""
        raise ValueError(
            f"training.batch_size={training.batch_size}{parts} on {mesh.size} devices: "
            f"give a multiple of {mesh.size * training.accumulate}"
        )


def _begin(run: Run) -> tuple[TrainState, History]:
    """A fresh state, perhaps with given weights, and what those have seen."""
    experiment = run.experiment
    # First, so that a source which is not there is told before anything is compiled.
    weights, earlier = read_weights(experiment.training.weights, experiment.model)
    _check_seen(run, earlier)
    init = functools.partial(init_state, experiment)
    # It runs once: the compiler need not try hard, which takes twice as long.
    quick = {"xla_backend_optimization_level": 0}
    init = jax.jit(init, out_shardings=replicated(run.mesh), compiler_options=quick)
    state = init(_keys(experiment.seed)[1])
    check_frozen(experiment.model, state.params, weights)
    state = with_weights(state, weights) if weights else state
    shards, split = run.shards, experiment.data.split
    clips = tuple(shards.videos[number].name for number in run.training)
    seen = Seen(shards.name, shards.digest, split, clips)
    return jax.device_put(state, placed(state, run.mesh)), History(seen=(*earlier, seen))


def _check_seen(run: Run, earlier: tuple[Seen, ...]) -> None:
    """Refuses weights that know the test clips: the run could not be evaluated."""
    shards, experiment, history = run.shards, run.experiment, History(seen=earlier)
    split = experiment.data.split
    tested = [n for n, video in enumerate(shards.videos) if video.parts[split] == "test"]
    known = trained_on(history, shards.videos, tested)
    if known and not experiment.evaluation.force:
        raise ValueError(
            f"training.weights={experiment.training.weights}: trained on {len(known)} of the "
            f"{len(tested)} test clips of {split!r}, such as {known[0]}; give weights of this "
            "split, or set --config.evaluation.force=True"
        )
    if known := trained_on(history, shards.videos, run.held_out):
        say(f"validation: the given weights were trained on {len(known)} of the clips held out")


def _restore(run: Run) -> tuple[TrainState, History]:
    load_experiment(run.workdir)  # what lies there without its config.json is no run
    state, history = run.checkpoints.restore(abstract_state(run.experiment, run.mesh))
    if jax.process_index() == 0:
        say(f"resumed from step {int(state.step)} of {run.experiment.training.steps}")
    return state, history


def _keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """Of the dropout masks and of the initial weights."""
    key, init_key = jax.random.split(jax.random.key(seed))
    return key, init_key


def _finished(experiment: Experiment, state: TrainState, history: History) -> bool:
    training, step = experiment.training, int(state.step)
    if step < training.steps and training.patience and history.stale >= training.patience:
        say(
            f"stopped at step {step}: no better validation at the last {history.stale} checkpoints "
            f"(training.patience={training.patience})"
        )
        return True
    return step >= training.steps


def _compile(run: Run, state: TrainState):
    """The step, compiled before the first: none later can compile again. And its FLOPs."""
    experiment = run.experiment
    step = functools.partial(
        train_step,
        model=create_model(experiment.model),
        optimizer=make_optimizer(experiment.optimizer, experiment.model.partial_bn),
        rate=schedule(experiment.optimizer, experiment.training.batch_size),
        accumulate=experiment.training.accumulate,
        label_smoothing=experiment.training.label_smoothing,
    )
    places = jax.tree.map(lambda x: x.sharding, state)
    key = jax.device_put(_keys(experiment.seed)[0], replicated(run.mesh))
    began = time.monotonic()
    traced = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(places, replicated(run.mesh)),
        compiler_options=compiler_options(),
    ).trace(state, abstract_batch(experiment, run.mesh), key)
    compiled, flops = traced.lower().compile(), step_flops(traced.jaxpr)
    if jax.process_index() == 0:
        say(summary.step_line(flops, compiled, time.monotonic() - began))
    return lambda state, batch: compiled(state, batch, key), flops


def _steps(
    run: Run,
    state: TrainState,
    history: History,
    record: Mapping[str, Any],
    validate: Validate | None,
) -> TrainState:
    """Steps until done.

    Metrics are read one step late, so that the device never waits for the host, except where the
    run is written down. A checkpoint is taken between two batches.
    """
    training, first = run.experiment.training, int(state.step) + 1
    batches = train_iterator(
        run.shards,
        run.training,
        run.experiment.input,
        training.batch_size,
        run.experiment.seed,
        start=history.samples,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    step_fn, flops = _compile(run, state)
    interval = Interval(training.batch_size, flops, run.mesh.devices.flat)
    log = RunLog(run.workdir, first - 1, training.steps, record, jax.process_index() == 0)
    trace = Trace(run.workdir, first, run.experiment.profile and jax.process_index() == 0)
    pending = None
    with interruption() as requested, trace, log, contextlib.closing(batches):
        for step in range(first, training.steps + 1):
            with trace.step(step), jax.transfer_guard("disallow"):
                with interval.waiting():
                    batch = next(batches)
                clips = batch.pop("video")
                state, metrics = step_fn(state, shard_batch(batch, run.mesh))
                if pending:
                    interval.add(_finite(run, *pending))
            trace.after(step, metrics)
            history, pending = history.after(training.batch_size), (step, clips, metrics)
            stop = requested(step)
            due = step % training.checkpoint_every == 0 or step == training.steps
            save = stop or due
            if save or step % training.log_every == 0:
                values, pending = _finite(run, *pending), None
                interval.add(values)
                log.write(step, interval.close() | {"learning_rate": values["learning_rate"]})
            if save:
                # Asked to stop or not: a run has the same validations, and so the same end.
                if due and len(run.held_out) and validate:
                    score = validate(state.variables, run.held_out)
                    history = history.after(0, (step, score))
                    log.write_validation(step, {"mean_class_accuracy": score})
                run.checkpoints.save(state, history)
                interval.restart_clock()
            if stop:
                raise Interrupted(f"stopped at step {step}, which is saved: run the same again")
            if _finished(run.experiment, state, history):
                break
    return state


def _finite(run: Run, step: int, clips: np.ndarray, metrics: Mapping[str, jax.Array]):
    """The metrics of a step as numbers."""
    values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
    for name, value in values.items():
        if not math.isfinite(value):
            names = ", ".join(run.shards.videos[clip].name for clip in clips)
            raise FloatingPointError(
                f"step {step}: {name} is {value}; last good checkpoint: "
                f"{run.checkpoints.latest_step or 'none yet'}; lower optimizer.learning_rate or "
                f"look at {names}"
            )
    return values


def _describe(run: Run, state: TrainState) -> None:
    experiment, shards = run.experiment, run.shards
    say(summary.devices_line(run.mesh))
    say(
        summary.data_line(
            shards.name,
            experiment.data.split,
            len(run.training),
            len(run.held_out),
            shards.digest,
        )
    )
    rates, _ = multipliers(state.params, experiment.optimizer, experiment.model.partial_bn)
    say(summary.parameter_table(state.params, rates))
    for line in summary.frozen_lines(rates):
        say(line)
    training = experiment.training
    say(summary.batch_line(training.batch_size, training.accumulate, run.mesh))
