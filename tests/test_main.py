"""The program end to end, as users run it, on a few embedded clips."""

import functools
import json

import numpy as np
import pytest

from stpyramid_jax.evaluation.predict import predict
from stpyramid_jax.experiment import load_experiment
from stpyramid_jax.training.checkpoint import load_trained
from stpyramid_jax.training.sharding import make_mesh
from tests.conftest import QUICKLY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(run):
    return functools.partial(run, XLA_FLAGS=QUICKLY)


def command(shards, workdir, *more, steps=2):
    return (
        "main.py",
        "--config=configs/quickstart.py",
        f"--config.data.dir={shards}",
        f"--workdir={workdir}",
        f"--config.training.steps={steps}",
        "--config.training.batch_size=4",
        "--config.evaluation.positions=2",
        "--config.evaluation.crops=1",
        *more,
    )


@pytest.fixture(scope="module")
def trained(sprites, tmp_path_factory, run):
    """Four steps of the quickstart, evaluated."""
    workdir = tmp_path_factory.mktemp("trained")
    result = run(*command(sprites / "shards", workdir, steps=4))
    return workdir, result


def parameters(workdir):
    experiment, _ = load_experiment(workdir)
    trained = load_trained(experiment, workdir, make_mesh())
    return trained.step, trained.variables


def test_a_run_leaves_what_the_readme_names(trained):
    workdir, result = trained
    assert (workdir / "config.json").exists()
    assert list(workdir.glob("events.out.tfevents.*"))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4
    assert {"loss", "accuracy", "steps_per_second", "data_wait"} <= lines[-1].keys()
    for text in ("step 4/4", "steps/s", "data wait", "ETA"):
        assert text in result.stderr
    folder = workdir / "evaluation" / "2x1-split1"
    assert {path.name for path in folder.iterdir()} >= {
        "summary.json",
        "per_class.csv",
        "scores.npz",
        "confusion.png",
        "report.html",
    }
    assert str(folder) in result.stdout


def test_the_same_command_again_has_nothing_to_train(trained, sprites, run):
    workdir, _ = trained
    before = parameters(workdir)[1]
    result = run(*command(sprites / "shards", workdir, "--mode=train", steps=4))
    assert "resumed from step 4" in result.stderr
    for a, b in zip(leaves(before), leaves(parameters(workdir)[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def leaves(tree):
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_predict_agrees_with_evaluate(trained, sprites, run):
    """The same clip from its video file and from the shards, which have gone through JPEG."""
    workdir, _ = trained
    video = sorted((sprites / "sprites" / "test").glob("*/*.avi"))[0]
    result = run("main.py", "--mode=predict", f"--workdir={workdir}", f"--video={video}")
    name, *lines = result.stdout.splitlines()
    assert name == str(video)
    rows = [line.split() for line in lines]
    assert len(rows) == 5
    shown = [float(row[0].rstrip("%")) / 100 for row in rows]
    assert shown == sorted(shown, reverse=True)

    (every,) = (found.probabilities for found in predict(workdir, str(video)))
    assert sum(every.values()) == pytest.approx(1)
    assert [every[row[1]] for row in rows] == pytest.approx(shown, abs=1e-3)
    with np.load(workdir / "evaluation" / "2x1-split1" / "scores.npz") as saved:
        row = [video.stem in name for name in saved["names"]].index(True)
        scores = np.exp(saved["scores"][row] - saved["scores"][row].max())
        expected = dict(zip(saved["classes"], scores / scores.sum(), strict=True))
    assert every == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--config.model.snipets=3",), "no key 'snipets'; did you mean --config.model.snippets?"),
        (("--config.modle.snippets=3",), "no key 'modle'; did you mean --config.model?"),
        (("--config.model.snippets=0",), "model.snippets=0: at least 1"),
        (("--config.model.backbone=vgg61",), "model.backbone='vgg61': one of"),
        (("--config.training.batch_size=3",), "training.batch_size=3 on 2 devices"),
        (("--config.evaluation.crops=4",), "evaluation.crops=4: 1 (centre)"),
        (("--config.input.crop=4", "--config.model.backbone=squeezenet"), "4 x 4: too small for"),
        (("--config.data.split=split9",), "of split 'split9'"),
        (("--config.data.dir=nowhere",), "nowhere: no dataset.json"),
        (("--config.training.weights=no.npz",), "weights no.npz: no such file"),
        (("--config=configs/nothing.py",), "configs/nothing.py"),
        (("--mode=evaluate",), "no checkpoint; train first"),
        (("--weights=no.npz",), "takes no --weights: it is for fuse; --config.training.weights"),
        (("--mode=fuse", "--scores=a.npz"), "--mode=fuse takes no --config"),
    ],
)
def test_bad_input_gets_one_line(more, message, sprites, tmp_path, run):
    workdir = tmp_path / "run"
    arguments = command(sprites / "shards", workdir, *more)
    result = run(*arguments, expect=2)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in result.stderr


def test_another_model_in_a_workdir_is_refused(trained, sprites, run):
    workdir, _ = trained
    arguments = command(sprites / "shards", workdir, "--config.model.sketch_seed=5")
    result = run(*arguments, expect=2)
    assert "model.sketch_seed: 0 there, 5 here" in result.stderr


def test_a_loss_that_is_no_number_stops_the_run(sprites, tmp_path, run):
    more = ("--config.optimizer.learning_rate=1e30", "--config.optimizer.warmup=0")
    arguments = command(sprites / "shards", tmp_path, *more, steps=6)
    result = run(*arguments, expect=1)
    last = result.stderr.strip().splitlines()[-1]
    assert " is nan" in last or " is inf" in last
    assert "last good checkpoint" in last
    assert "Hop" in last or "Swing" in last or "Act" in last


def test_what_is_no_video_is_refused(trained, tmp_path, run):
    (tmp_path / "a.avi").write_bytes(b"no video")
    for name in ("a.avi", "missing.avi"):
        arguments = ("--mode=predict", f"--workdir={trained[0]}", f"--video={tmp_path / name}")
        result = run("main.py", *arguments, expect=2)
        assert f"{name}: " in result.stderr.strip().splitlines()[-1]
        assert "Traceback" not in result.stderr
