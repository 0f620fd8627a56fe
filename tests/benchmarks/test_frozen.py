"""Rows above frozen streams: the same network as the whole one, and scores as evaluation writes."""

import argparse
import functools
import sys

import jax
import numpy as np
import pytest

from stpyramid_jax.ablation.rows import ROWS
from stpyramid_jax.evaluation.protocol import clip_scores, jitted_forward
from stpyramid_jax.evaluation.scores import load as load_scores
from stpyramid_jax.input.pipeline import eval_batches
from stpyramid_jax.input.tfrecord import Shards
from stpyramid_jax.models.backbones.squeezenet import SqueezeNet
from stpyramid_jax.models.pyramid import ModelConfig, create_model
from stpyramid_jax.training.sharding import make_mesh
from stpyramid_jax.training.state import init_state
from stpyramid_jax.training.weights import read_weights, with_weights
from tests.conftest import load

ABOVE = [name for name, row in ROWS.items() if row.model["snippets"] in (1, 3)]


@pytest.fixture(scope="module")
def maps():
    return load("benchmarks/maps.py")


@pytest.fixture(scope="module")
def frozen(maps):
    return load("benchmarks/frozen.py")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights that nobody trained."""
    shapes = jax.eval_shape(SqueezeNet().init, jax.random.key(0), np.zeros((1, 64, 64, 3)))
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("weights") / "random.npz"
    leaves = jax.tree_util.tree_leaves_with_path(shapes["params"])
    arrays = {
        "/".join(key.key for key in path): rng.normal(0, 0.05, leaf.shape).astype(np.float32)
        for path, leaf in leaves
    }
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", ["spatial", "temporal", "A", "D", "attend_concat3"])
def test_a_network_above_its_streams_says_what_the_whole_one_says(frozen, name):
    config = ModelConfig(num_classes=5, backbone="convnet", **ROWS[name].model)
    model, rng = create_model(config), np.random.default_rng(0)
    shapes = {"rgb": (2, 32, 32, 3), "flow": (2, config.snippets, 32, 32, 20)}
    images = {x: rng.integers(0, 256, shapes[x]).astype(np.uint8) for x in config.layouts}
    variables = model.init(jax.random.key(1), images, train=False)
    whole, kept = model.apply(
        variables,
        images,
        train=False,
        mutable=["intermediates"],
        capture_intermediates=lambda module, _: module.path in frozen.STREAMS,
    )
    maps = {}
    for name, stream in {"rgb": "spatial", "flow": "temporal"}.items():
        if stream in kept["intermediates"]:
            found = kept["intermediates"][stream]["__call__"][0]
            maps[name] = found.reshape(2, -1, *found.shape[1:]) if name == "flow" else found
    params = {k: v for k, v in variables["params"].items() if (k,) not in frozen.STREAMS}
    above = frozen.Above(model)
    outputs = above.apply({**variables, "params": params}, maps, train=False)
    np.testing.assert_allclose(outputs.logits, whole.logits, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(above.init(jax.random.key(1), maps)["params"]) == jax.tree.structure(
        params
    )


def test_a_single_snippet_is_the_one_in_the_middle(frozen):
    flow = np.arange(2 * 3, dtype=np.float16).reshape(2, 3, 1, 1, 1)
    maps = frozen.Maps(np.zeros((2, 1, 1, 1), np.float16), flow, np.array([7, 7]))
    batch = maps.batch(np.array([1]), ModelConfig(num_classes=2, **ROWS["temporal"].model))
    assert set(batch) == {"flow"}
    assert batch["flow"].ravel().tolist() == [4]


def _shorten(monkeypatch, maps, frozen):
    monkeypatch.setattr(frozen, "STEPS", 10)
    monkeypatch.setattr(maps, "DRAWS", 2)
    monkeypatch.setattr(maps, "POSITIONS", 2)
    for module in (maps, frozen):  # 12 samples of 6 clips do not fill the last batch
        monkeypatch.setattr(module, "BATCH", 5)


@pytest.mark.slow
def test_scores_are_those_of_an_evaluation(maps, frozen, weights, sprites, tmp_path, monkeypatch):
    _shorten(monkeypatch, maps, frozen)
    shards, mesh = Shards(sprites / "shards"), make_mesh()
    args = argparse.Namespace(
        shards=sprites / "shards", split="split1", validation=0.0, crop=40, weights=str(weights)
    )
    experiment = frozen.experiment_of(args, ROWS["D"], len(shards.classes))
    state = jax.jit(functools.partial(init_state, experiment))(jax.random.key(0))
    given, _ = read_weights(str(weights), experiment.model)
    variables = jax.tree.map(np.asarray, with_weights(state, given).variables)
    clips = shards.select("split1", "test")
    _, test = maps.maps_of(experiment, shards, tmp_path)
    found = frozen.score(experiment, variables, test, clips)

    batches = eval_batches(shards, clips, experiment.input, maps.POSITIONS, 1, 8, parts=8)
    step = jitted_forward(create_model(experiment.model), mesh)
    evaluated = clip_scores(variables, step, batches, mesh)
    expected = np.stack([evaluated[clip] for clip in clips.tolist()])
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.std())


@pytest.mark.slow
def test_rows_are_trained_on_maps_that_are_kept(
    maps, frozen, weights, sprites, tmp_path, monkeypatch, capsys
):
    _shorten(monkeypatch, maps, frozen)
    flags = {
        "shards": sprites / "shards",
        "weights": weights,
        "maps": tmp_path / "maps",
        "out": tmp_path / "out",
        "rows": "D",
        "seeds": "0,1",
        "crop": 40,
    }

    def run(**changes):
        given = [f"--{name}={value}" for name, value in (flags | changes).items()]
        monkeypatch.setattr(sys, "argv", ["frozen.py", *given])
        return frozen.main()

    assert run() == 0
    found = [load_scores(tmp_path / "out" / "D" / f"split1-seed{seed}.npz") for seed in (0, 1)]
    assert not np.allclose(found[0].scores, found[1].scores)
    assert capsys.readouterr().out.count("±") == 1
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir()}
    assert run(rows="D", seeds="1", out=tmp_path / "again") == 0
    again = load_scores(tmp_path / "again" / "D" / "split1-seed1.npz")
    np.testing.assert_array_equal(again.scores, found[1].scores)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir()} == kept
    assert run(crop=41) == 2
    assert "--maps" in capsys.readouterr().err
    assert run(validation=0.5, rows="A", seeds="0") == 0
    held = load_scores(tmp_path / "out" / "A" / "split1-held-out-seed0.npz")
    assert not {*held.names} & {*found[0].names}
    assert run(rows="stcb5") == 2
    assert "stcb5 take more than 3 snippets" in capsys.readouterr().err
