"""Checkpoints give back what was saved, part by part, sketch included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from stpyramid_jax.training.checkpoint import Checkpoints
from stpyramid_jax.training.history import History, Seen
from stpyramid_jax.training.state import TrainState


def state(step, value, collections=True):
    sketch = {"level1": {"inputs": ({"hash": jnp.arange(3), "sign": jnp.ones(3)},)}}
    return TrainState(
        step=jnp.int32(step),
        params={"head": {"kernel": jnp.full((2, 3), value)}},
        collections={"sketch": sketch, "batch_stats": {"m": jnp.zeros(2)}} if collections else {},
        opt_state=(jnp.full(4, 2 * value),),
    )


def abstract(tree):
    place = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


@pytest.mark.parametrize("collections", [True, False])
def test_the_latest_checkpoint_comes_back_whole(tmp_path, collections):
    histories = {
        step: History(10 * step, seen=(Seen("d", "e", "f", ("é",)),)) for step in (1, 2, 3)
    }
    with Checkpoints(tmp_path) as checkpoints:
        for step, history in histories.items():
            checkpoints.save(state(step, float(step), collections), history)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "3"]

    saved = state(3, 3.0, collections)
    with Checkpoints(tmp_path) as again:
        restored, history = again.restore(abstract(saved))
    assert history == histories[3]
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, restored, saved)


def test_parts_can_be_read_without_the_others(tmp_path):
    target = abstract(state(1, 1.0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(1, 1.0), History())
        restored, _ = checkpoints.restore(target, parts=("params", "collections"))
    np.testing.assert_array_equal(restored.variables["params"]["head"]["kernel"], 1.0)
    assert restored.opt_state == target.opt_state


def test_an_error_after_a_save_does_not_lose_it(tmp_path):
    def broken_run():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state(1, 1.0), History())
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        broken_run()
    with Checkpoints(tmp_path) as again:
        assert again.latest_step == 1


def test_a_save_that_was_cut_off_is_no_checkpoint(tmp_path):
    """orbax writes beside the final name; a folder that was never renamed is not counted."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(1, 1.0), History())
    (tmp_path / "2.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    with Checkpoints(tmp_path) as again:
        assert again.latest_step == 1
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2.orbax-checkpoint-tmp"}
    with Checkpoints(tmp_path, clean=True):
        assert {path.name for path in tmp_path.iterdir()} == {"1"}  # at once, on no thread


def test_the_best_is_kept_beside_the_latest_and_can_be_read(tmp_path):
    """Checkpoints without a validation, such as those of a stopped run, count as latest only."""
    scores, history = {1: 0.2, 2: 0.6, 3: None, 4: 0.6, 5: 0.4, 6: None, 7: 0.5}, History()
    with Checkpoints(tmp_path) as checkpoints:
        for step, score in scores.items():
            history = history.after(1, None if score is None else (step, score))
            checkpoints.save(state(step, float(step)), history)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "6", "7"]
    with Checkpoints(tmp_path) as again:
        assert again.latest_step == 7
        assert again.history() == history
        best, earlier = again.restore(abstract(state(0, 0.0)), step=history.best_step)
    assert int(best.step) == history.best_step == earlier.validations[-1][0] == 4
    np.testing.assert_array_equal(best.params["head"]["kernel"], 4.0)


def test_what_cannot_be_written_is_said_and_earlier_ones_stay(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(1, 1.0), History())
    full = OSError(28, "No space left on device")

    def save(*_, **__):
        raise full

    def broken_run():
        with Checkpoints(tmp_path) as checkpoints:
            monkeypatch.setattr(checkpoints._manager, "save", save)
            checkpoints.save(state(2, 2.0), History())

    with pytest.raises(OSError, match=r"cannot be written \(.*No space left.*from step 1"):
        broken_run()
    with Checkpoints(tmp_path) as again:
        assert int(again.restore(abstract(state(0, 0.0)))[0].step) == 1
