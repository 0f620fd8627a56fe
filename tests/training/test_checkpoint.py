"""Checkpoints give back what was saved, part by part, sketch included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from stpyramid_jax.training.checkpoint import Checkpoints
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
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state(step, float(step), collections), {"next_index": 10 * step})
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "3"]

    saved = state(3, 3.0, collections)
    with Checkpoints(tmp_path) as again:
        restored, position = again.restore(abstract(saved))
    assert position == {"next_index": 30}
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, restored, saved)


def test_parts_can_be_read_without_the_others(tmp_path):
    target = abstract(state(1, 1.0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(1, 1.0), {})
        restored, _ = checkpoints.restore(target, parts=("params", "collections"))
    np.testing.assert_array_equal(restored.variables["params"]["head"]["kernel"], 1.0)
    assert restored.opt_state == target.opt_state


def test_an_error_after_a_save_does_not_lose_it(tmp_path):
    def broken_run():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state(1, 1.0), {})
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        broken_run()
    with Checkpoints(tmp_path) as again:
        assert again.latest_step == 1


def test_a_save_that_was_cut_off_is_no_checkpoint(tmp_path):
    """orbax writes beside the final name; a folder that was never renamed is not counted."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(1, 1.0), {})
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as again:
        assert again.latest_step == 1
