"""Checkpoints of a run: orbax, wrapped here and nowhere else."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from stpyramid_jax.experiment import Experiment
from stpyramid_jax.training.history import History
from stpyramid_jax.training.state import TrainState, abstract_state

_PARTS = ("params", "collections", "opt_state")
_LATEST = 2


class _LatestAndBest(managers.PreservationPolicy):
    """Keeps the latest, and the best by the history of the run.

    orbax's own policy for the best goes by metrics of its own, which a history holds already.
    """

    best_step: int | None = None

    def should_preserve(self, checkpoints, *, context):
        steps = sorted(info.step for info in checkpoints)
        kept = {*steps[-_LATEST:], self.best_step}
        return [info.step in kept for info in checkpoints]


class Checkpoints:
    """The checkpoints in a folder: the latest two, and the one with the best validation.

    The parts of the state and the history are saved apart. A save is written beside its final name
    and renamed, so that a run killed at any instant leaves whole checkpoints only; `clean` removes
    what was cut off, which only a run may that writes there alone.
    """

    def __init__(self, folder: Path, clean: bool = False):
        self._folder = folder
        self._kept = _LatestAndBest()
        if clean and jax.process_index() == 0:
            _remove_cut_off(folder)
        options = ocp.CheckpointManagerOptions(preservation_policy=self._kept, create=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._writing():
            self._manager.close()  # waits for the save under way, whatever ends the run

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, history: History) -> None:
        """Starts a save and returns while it is written.

        Raises:
          OSError: this one, or the one before, cannot be written.
        """
        step = int(jax.device_get(state.step))
        items = {
            name: ocp.args.StandardSave(getattr(state, name)) for name in _present(state, _PARTS)
        }
        args = ocp.args.Composite(**items, history=ocp.args.JsonSave(history.to_json()))
        self._kept.best_step = history.best_step
        with self._writing():
            self._manager.save(step, args=args)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            whole = self._manager.latest_step()
            reason = " ".join(str(error).split())
            raise OSError(
                f"{self._folder}: a checkpoint cannot be written ({reason[:200]}); make room, and "
                f"the same command goes on from step {whole or 0}, the last whole one"
            ) from error

    def restore(
        self, target: TrainState, parts: Sequence[str] = _PARTS, step: int | None = None
    ) -> tuple[TrainState, History]:
        """A checkpoint, the latest if no step is given, and its history.

        Args:
          target: arrays or `jax.ShapeDtypeStruct`s of the shapes, dtypes and shardings wanted.
          parts: of the state to read; the others stay those of `target`.
        """
        parts = _present(target, parts)
        items = {name: ocp.args.StandardRestore(getattr(target, name)) for name in parts}
        step = self.latest_step if step is None else step
        args = ocp.args.Composite(**items, history=ocp.args.JsonRestore())
        restored = self._read(step, args)
        count = jax.device_put(jax.numpy.int32(step), target.step.sharding)
        state = target.replace(step=count, **{name: restored[name] for name in parts})
        return state, History.from_json(restored["history"])

    def history(self) -> History:
        """That of the latest checkpoint."""
        args = ocp.args.Composite(history=ocp.args.JsonRestore())
        return History.from_json(self._read(self.latest_step, args)["history"])

    def _read(self, step: int | None, args: ocp.args.Composite) -> Any:
        try:
            return self._manager.restore(step, args=args)
        except Exception as error:  # orbax raises many kinds, bare ones too
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self._folder / str(step)}: damaged, or of another version ({reason}); remove "
                "it to go on from the one before, or take another --workdir"
            ) from error


def _remove_cut_off(folder: Path) -> None:
    """Removes what saves that were cut off have left.

    orbax would do so on a thread that its `close` does not wait for: a run refused meanwhile would
    end in that thread's traceback.
    """
    for path in folder.glob("*"):
        if ocp.utils.is_tmp_checkpoint(path):
            shutil.rmtree(path)


def _present(state: TrainState, parts: Sequence[str]) -> list[str]:
    """Parts that hold arrays; orbax refuses to save what holds none."""
    return [name for name in parts if jax.tree.leaves(getattr(state, name))]


class Trained(NamedTuple):
    """The network of a checkpoint: its variables, the step, and what it was trained on."""

    variables: dict[str, Any]
    step: int
    history: History


def load_trained(experiment: Experiment, workdir: Path, mesh: jax.sharding.Mesh) -> Trained:
    """A run's checkpoint: the best where clips were held out to tell it, else the latest.

    Raises:
      ValueError: there is no checkpoint.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"{workdir}: no checkpoint; train first (--mode=train)")
    with Checkpoints(folder) as checkpoints:
        if checkpoints.latest_step is None:
            raise ValueError(f"{workdir}: no checkpoint; train first (--mode=train)")
        step = checkpoints.history().best_step
        target = abstract_state(experiment, mesh, divide=False)
        state, history = checkpoints.restore(target, ("params", "collections"), step)
    return Trained(state.variables, int(state.step), history)
