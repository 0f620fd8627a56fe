"""The benchmark of views: both ways give the same scores, or nothing is timed."""

import jax
import numpy as np
import pytest

from stpyramid_jax.experiment import build_experiment
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.training.state import init_state
from tests.conftest import load


@pytest.fixture(scope="module")
def views():
    load("benchmarks/comparison.py")  # which the program imports by name
    return load("benchmarks/views.py")


@pytest.mark.slow
def test_sharing_and_a_loop_agree(views, sprites):
    """On fresh weights, with the crops of TSN."""
    from configs import quickstart

    config = quickstart.get_config("model=D")
    config.data.dir = str(sprites / "shards")
    config.input.crop = 16
    config.model.head_std = 0.5
    config.evaluation.batch_size = 24
    shards = Shards(sprites / "shards")
    experiment = build_experiment(config.to_dict(), len(shards.classes))
    state = jax.jit(lambda key: init_state(experiment, key))(jax.random.key(0))
    run = views.Run(experiment, shards, state.variables, np.arange(3))
    (_, shared), (_, single) = (way(run, 3, 5) for way in (views.together, views.alone))
    assert shared.shape == (3, len(shards.classes))
    np.testing.assert_allclose(shared, single, atol=2e-4 * np.ptp(single))
