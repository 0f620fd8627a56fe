"""The training loop: restore or initialise, then step, log and save until done."""

import functools
import math
from pathlib import Path

import jax
import numpy as np

from stpyramid_jax.experiment import Experiment, check_workdir, run_record
from stpyramid_jax.input.pipeline import train_iterator
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.pretrained import init_backbones, load_arrays
from stpyramid_jax.models.pyramid import create_model
from stpyramid_jax.progress import say
from stpyramid_jax.training.checkpoint import Checkpoints
from stpyramid_jax.training.logging import Interval, RunLog
from stpyramid_jax.training.optimizer import make_optimizer, schedule
from stpyramid_jax.training.sharding import make_mesh, replicated, shard_batch
from stpyramid_jax.training.state import TrainState, abstract_state, init_state
from stpyramid_jax.training.step import train_step


def train(experiment: Experiment, shards: Shards, workdir: Path) -> TrainState:
    """Trains to `training.steps`, from the latest checkpoint in the workdir if there is one.

    Order of initialisation: checkpoint, else `training.weights`, else random.

    Raises:
      ValueError: the workdir holds another run, or weights that do not fit.
      FloatingPointError: the loss is not finite; names the step, its clips and the checkpoint to
        go back to.
    """
    check_workdir(workdir, run_record(experiment, shards))
    mesh = make_mesh()
    model, optimizer = create_model(experiment.model), make_optimizer(experiment.optimizer)
    videos = shards.select(experiment.data.split, "train")
    batches = train_iterator(
        shards,
        videos,
        experiment.input,
        experiment.training.batch_size,
        experiment.seed,
        jax.process_index(),
        jax.process_count(),
    )
    key, init_key = jax.random.split(jax.random.key(experiment.seed))
    checkpoints = Checkpoints(workdir / "checkpoints")
    if checkpoints.latest_step is None:
        init = functools.partial(init_state, experiment)
        state = jax.jit(init, out_shardings=replicated(mesh))(init_key)
        state = _load_weights(state, experiment.training.weights)
    else:
        state, input_state = checkpoints.restore(abstract_state(experiment, mesh))
        batches.set_state(input_state)
        say(f"resumed from step {int(state.step)}")
    _describe(state, shards, videos, mesh)

    step_fn = jax.jit(
        functools.partial(train_step, model=model, optimizer=optimizer), donate_argnums=0
    )
    state = _run(state, step_fn, batches, key, mesh, experiment, shards, checkpoints, workdir)
    checkpoints.close()
    return state


def _run(state, step_fn, batches, key, mesh, experiment, shards, checkpoints, workdir):
    """Steps until done.

    Metrics are read one step late, so that the device never waits for the host, except where the
    run is written down. A checkpoint is taken between two batches, with the input's position.
    """
    training, start = experiment.training, int(state.step)
    rate = schedule(experiment.optimizer)
    log = RunLog(workdir, start, training.steps)
    interval, pending = Interval(), None
    try:
        for step in range(start + 1, training.steps + 1):
            with interval.waiting():
                batch = next(batches)
            clips = batch.pop("video")
            state, metrics = step_fn(state, shard_batch(batch, mesh), key)
            if pending:
                interval.add(_finite(*pending, shards, checkpoints))
            pending = (step, clips, metrics)
            save = step % training.checkpoint_every == 0 or step == training.steps
            if save or step % training.log_every == 0:
                interval.add(_finite(*pending, shards, checkpoints))
                log.write(
                    step, interval.close() | {"learning_rate": float(np.asarray(rate(step - 1)))}
                )
                pending = None
            if save:
                checkpoints.save(state, batches.get_state())
    finally:
        log.close()
    return state


def _finite(step, clips, metrics, shards, checkpoints) -> dict[str, float]:
    """The metrics on the host, or an error if the loss is no number."""
    values = {name: float(value) for name, value in metrics.items()}
    if not math.isfinite(values["loss"]):
        names = ", ".join(shards.videos[clip].name for clip in clips)
        raise FloatingPointError(
            f"step {step}: loss is {values['loss']}, last good checkpoint: step "
            f"{checkpoints.latest_step}; lower optimizer.learning_rate or look at {names}"
        )
    return values


def _load_weights(state: TrainState, path: str) -> TrainState:
    if not path:
        return state
    host = jax.tree.map(np.asarray, state.params)
    params, report = init_backbones(host, load_arrays(path))
    for line in report:
        say(f"{path}: {line}")
    return state.replace(
        params=jax.tree.map(
            lambda new, old: jax.device_put(new, old.sharding), params, state.params
        )
    )


def _describe(state, shards, videos, mesh):
    devices = mesh.devices.flat
    say(f"devices: {mesh.size} x {devices[0].device_kind} ({devices[0].platform})")
    say(f"data set: {shards.name}, {len(videos)} videos to train on, digest {shards.digest[:12]}")
    for name, part in state.params.items():
        say(f"parameters: {name} {sum(x.size for x in jax.tree.leaves(part)):,}")
