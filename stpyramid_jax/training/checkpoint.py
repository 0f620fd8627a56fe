"""Checkpoints of a run: orbax, wrapped here and nowhere else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from stpyramid_jax.experiment import Experiment
from stpyramid_jax.training.state import TrainState, abstract_state

_PARTS = ("params", "collections", "opt_state")


class Checkpoints:
    """The checkpoints in a folder: the parts of the state and the input's position, saved apart.

    A save is written beside its final name and renamed, so that a run killed at any instant
    leaves whole checkpoints only.
    """

    def __init__(self, folder: Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()  # waits for the save under way, whatever ends the run

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, input_state: dict[str, Any]) -> None:
        """Starts a save and returns while it is written."""
        items = {
            name: ocp.args.StandardSave(getattr(state, name)) for name in _present(state, _PARTS)
        }
        args = ocp.args.Composite(**items, input=ocp.args.JsonSave(input_state))
        self._manager.save(int(state.step), args=args)

    def restore(
        self, target: TrainState, parts: Sequence[str] = _PARTS
    ) -> tuple[TrainState, dict[str, Any]]:
        """The latest checkpoint and its input state.

        Args:
          target: arrays or `jax.ShapeDtypeStruct`s of the shapes, dtypes and shardings wanted.
          parts: of the state to read; the others stay those of `target`.
        """
        parts = _present(target, parts)
        items = {name: ocp.args.StandardRestore(getattr(target, name)) for name in parts}
        step = self.latest_step
        args = ocp.args.Composite(**items, input=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        count = jax.device_put(jax.numpy.int32(step), target.step.sharding)
        state = target.replace(step=count, **{name: restored[name] for name in parts})
        return state, restored["input"]


def _present(state: TrainState, parts: Sequence[str]) -> list[str]:
    """Parts that hold arrays; orbax refuses to save what holds none."""
    return [name for name in parts if jax.tree.leaves(getattr(state, name))]


def load_variables(
    experiment: Experiment, workdir: Path, mesh: jax.sharding.Mesh
) -> tuple[dict[str, Any], int]:
    """The variables of a run's latest checkpoint, and its step.

    Raises:
      ValueError: there is no checkpoint.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"{workdir}: no checkpoint; train first (--mode=train)")
    with Checkpoints(folder) as checkpoints:
        if checkpoints.latest_step is None:
            raise ValueError(f"{workdir}: no checkpoint; train first (--mode=train)")
        target = abstract_state(experiment, mesh)
        state, _ = checkpoints.restore(target, parts=("params", "collections"))
    return state.variables, int(state.step)
