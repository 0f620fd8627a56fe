"""Models A and D, trained as in the quickstart, against what the clips let them know."""

import json

import numpy as np
import pytest

from tests.conftest import load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The embedded clips at the demo's size; flow by DIS, which is faster to compute."""
    from stpyramid_jax.preparation.choices import Choices
    from stpyramid_jax.preparation.run import prepare

    folder = tmp_path_factory.mktemp("ceilings")
    load("data/synthesize.py").synthesize(folder / "sprites", train=60, test=20, seed=0)
    prepare(
        Choices(
            "folder", folder / "sprites", folder / "shards", size=(72, 72), flow="dis", workers=1
        )
    )
    return folder / "shards"


@pytest.fixture(scope="module")
def accuracy(shards, tmp_path_factory, run):
    """Mean class accuracy on the 120 test clips, by model."""
    reached = {}
    for model in ("A", "D"):
        workdir = tmp_path_factory.mktemp(model)
        run(
            "main.py",
            f"--config=configs/quickstart.py:model={model}",
            f"--config.data.dir={shards}",
            f"--workdir={workdir}",
        )
        (summary,) = workdir.glob("evaluation/*/summary.json")
        reached[model] = json.loads(summary.read_text())["mean_class_accuracy"]
    return reached


def test_d_learns_what_only_d_can_know(accuracy):
    assert accuracy["D"] >= 0.9
    assert accuracy["D"] - accuracy["A"] >= 0.2


def test_a_stays_at_its_ceiling(accuracy):
    """Within three standard errors of 120 clips: more would mean that the clips leak."""
    best = load("data/synthesize.py").ceilings()["A"].overall
    assert accuracy["A"] <= best + 3 * np.sqrt(best * (1 - best) / 120)
