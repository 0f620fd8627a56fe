"""The training loop: restore or initialise, then step, log and save until done."""

import functools
import math
from pathlib import Path

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
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pyramid import create_model
from stpyramid_jax.performance import compiler_options
from stpyramid_jax.progress import say
from stpyramid_jax.training.checkpoint import Checkpoints
from stpyramid_jax.training.logging import Interval, RunLog
from stpyramid_jax.training.optimizer import frozen_norms, make_optimizer, schedule
from stpyramid_jax.training.sharding import make_mesh, replicated, shard_batch
from stpyramid_jax.training.state import TrainState, abstract_state, init_state
from stpyramid_jax.training.step import train_step
from stpyramid_jax.training.weights import check_frozen, read_weights, with_weights


def train(experiment: Experiment, shards: Shards, workdir: Path) -> TrainState:
    """Trains to `training.steps`, from the latest checkpoint in the workdir if there is one.

    Order of initialisation: checkpoint, else `training.weights`, else random. The workdir takes
    the run's `config.json` once everything given has been checked.

    Raises:
      ValueError: the workdir holds another run, weights do not fit, or the batch does not divide
        among the devices.
      FloatingPointError: a loss or an update is not finite; names the step, its clips and the
        checkpoint to go back to.
    """
    record = run_record(experiment, shards)
    check_workdir(workdir, record)
    mesh = make_mesh()
    if experiment.training.batch_size % mesh.size:
        raise ValueError(
            f"training.batch_size={experiment.training.batch_size} on {mesh.size} devices: "
            f"give a multiple of {mesh.size}"
        )
    videos = shards.select(experiment.data.split, "train")
    batches = train_iterator(
        shards, videos, experiment.input, experiment.training.batch_size, experiment.seed
    )
    key, init_key = jax.random.split(jax.random.key(experiment.seed))
    target = abstract_state(experiment, mesh)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        if checkpoints.latest_step is None:
            init = functools.partial(init_state, experiment)
            # It runs once: the compiler need not try hard, which takes twice as long.
            quick = {"xla_backend_optimization_level": 0}
            init = jax.jit(init, out_shardings=replicated(mesh), compiler_options=quick)
            state = init(init_key)
            weights = read_weights(experiment.training.weights, experiment.model)
            check_frozen(experiment.model, state.params, weights)
            state = with_weights(state, weights) if weights else state
        else:
            state, input_state = checkpoints.restore(target)
            batches.set_state(input_state)
            say(f"resumed from step {int(state.step)} of {experiment.training.steps}")
            # What the run started from stays on record, whatever is asked for now.
            began = load_experiment(workdir)[0].training.weights
            record = record | {"training": record["training"] | {"weights": began}}
        write_record(workdir, record)
        _describe(state, shards, videos, mesh, experiment.model.partial_bn)
        with RunLog(workdir, int(state.step), experiment.training.steps) as log:
            return _run(experiment, state, batches, shards, key, mesh, checkpoints, log)


def _run(experiment, state, batches, shards, key, mesh, checkpoints, log) -> TrainState:
    """Steps until done.

    Metrics are read one step late, so that the device never waits for the host, except where the
    run is written down. A checkpoint is taken between two batches, with the input's position.
    """
    training, rate = experiment.training, schedule(experiment.optimizer)
    step_fn = jax.jit(
        functools.partial(
            train_step,
            model=create_model(experiment.model),
            optimizer=make_optimizer(experiment.optimizer, experiment.model.partial_bn),
        ),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )

    def finite(step, clips, metrics):
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                names = ", ".join(shards.videos[clip].name for clip in clips)
                raise FloatingPointError(
                    f"step {step}: {name} is {value}; last good checkpoint: "
                    f"{checkpoints.latest_step or 'none yet'}; lower optimizer.learning_rate or "
                    f"look at {names}"
                )
        return values

    first, interval, pending = int(state.step) + 1, Interval(), None
    for step in range(first, training.steps + 1):
        with interval.waiting():
            batch = next(batches)
        clips = batch.pop("video")
        state, metrics = step_fn(state, shard_batch(batch, mesh), key)
        if pending:
            interval.add(finite(*pending))
        pending = (step, clips, metrics)
        save = step % training.checkpoint_every == 0 or step == training.steps
        if save or step % training.log_every == 0:
            interval.add(finite(*pending))
            log.write(step, interval.close() | {"learning_rate": float(np.asarray(rate(step - 1)))})
            pending = None
        elif step == first:
            interval.add(finite(*pending))
            interval.restart_clock()  # compiling is not what later steps will take
            pending = None
        if save:
            checkpoints.save(state, batches.get_state())
    return state


def _describe(state, shards, videos, mesh, partial_bn):
    devices = mesh.devices.flat
    say(f"devices: {mesh.size} x {devices[0].device_kind} ({devices[0].platform})")
    say(f"data set: {shards.name}, {len(videos)} videos to train on, digest {shards.digest[:12]}")
    for name, part in state.params.items():
        say(f"parameters: {name} {sum(x.size for x in jax.tree.leaves(part)):,}")
    if partial_bn and (frozen := frozen_norms(state.params)):
        say(f"frozen: {len(frozen)} scales and offsets of batch normalisation, all but the first")
