"""Models A and D, trained as in the quickstart by half, against what the clips let them know."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from stpyramid_jax.models.pyramid import ModelConfig, create_model, named_model
from tests.conftest import load


@pytest.fixture(scope="module")
def synthesize():
    return load("data/synthesize.py")


@pytest.fixture(scope="module")
def probe(synthesize):
    """The program, which imports the other by name."""
    return load("data/probe.py")


# What the probes do to a network, and how they measure.


@pytest.fixture(scope="module")
def network():
    """A small model D as it begins, and inputs; the function gives its outputs."""
    config = ModelConfig(
        num_classes=6,
        backbone="convnet",
        snippet_length=1,
        sketch_dims=(32, 32, 32),
        head_std=0.1,
        **named_model("D"),
    )
    rng = np.random.default_rng(0)
    inputs = {
        "rgb": rng.integers(0, 256, (2, 16, 24, 3), np.uint8),
        "flow": rng.integers(0, 256, (2, 3, 16, 24, 2), np.uint8),
    }
    model = create_model(config)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(inputs)
    return jax.jit(lambda v, x: model.apply(v, x, train=False)), variables, inputs


def test_unguided_attention_is_an_average(probe, network):
    apply, variables, inputs = network
    trained, probed = apply(variables, inputs), apply(probe.unguided(variables), inputs)
    assert np.ptp(trained.attention) > 0
    np.testing.assert_allclose(probed.attention, 1 / probed.attention[0].size, rtol=1e-6)
    attended, pooled = probed.features["attended"], probed.features["spatial"]
    np.testing.assert_allclose(attended, pooled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0)])
def test_reordered_sketches_are_reordered_snippets(probe, network, order):
    """Snippet i goes where the sketch was that now stands at place i."""
    apply, variables, inputs = network
    moved = np.empty_like(inputs["flow"])
    moved[:, list(order)] = inputs["flow"]
    expected = apply(variables, {**inputs, "flow": moved})
    found = apply(probe.reordered(variables, order), inputs)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    trained = apply(variables, inputs)
    assert np.abs(found.logits - trained.logits).max() > 1e-2


def test_masses_count_the_part_of_each_cell_in_the_box(probe):
    rng = np.random.default_rng(0)
    attention = rng.dirichlet(np.ones(12)).reshape(3, 4)
    view = (4, 8, 84, 68)  # cells of 20 x 20 pixels
    assert probe.masses(attention, view, view) == pytest.approx((1, 1))
    assert probe.masses(attention, (24, 28, 44, 48), view) == pytest.approx(
        (attention[1, 1], 1 / 12)
    )
    assert probe.masses(attention, (34, 28, 44, 53), view) == pytest.approx(
        (attention[1, 1] / 2 + attention[2, 1] / 8, (1 / 2 + 1 / 8) / 12)
    )
    # What lies outside of the view has no mass.
    assert probe.masses(attention, (-50, -50, 14, 18), view) == pytest.approx(
        (attention[0, 0] / 4, 1 / 48)
    )


@pytest.mark.parametrize("label", ["ActRed", "HopCounter"])
def test_the_box_is_what_a_disc_covers(probe, synthesize, label):
    program = synthesize.sample_program(label, np.random.default_rng(3))
    scene = synthesize.render(dataclasses.replace(program, sprites=()))
    for sprite in program.sprites:
        painted = synthesize.render(dataclasses.replace(program, sprites=(sprite,))) != scene
        for frame in (0, 7, 34):
            y, x = np.nonzero(painted[frame].any(-1))
            found = (x.min(), y.min(), x.max() + 1, y.max() + 1)
            np.testing.assert_allclose(found, probe.box(sprite, frame), atol=1)


# What is learnt.


@pytest.fixture(scope="module")
def data(tmp_path_factory, synthesize):
    """The embedded clips at the demo's size; flow by DIS, which is faster to compute."""
    from stpyramid_jax.preparation.choices import Choices
    from stpyramid_jax.preparation.run import prepare

    folder = tmp_path_factory.mktemp("ceilings")
    synthesize.synthesize(folder / "sprites", train=40, test=20, seed=0)
    prepare(
        Choices(
            "folder", folder / "sprites", folder / "shards", size=(72, 72), flow="dis", workers=1
        )
    )
    return folder


@pytest.fixture(scope="module")
def workdirs(data, tmp_path_factory, run):
    """Of runs of the quickstart, by model; D has learnt what there is to learn half way."""
    found = {}
    for model in ("A", "D"):
        found[model] = tmp_path_factory.mktemp(model)
        run(
            "main.py",
            f"--config=configs/quickstart.py:model={model}",
            f"--config.data.dir={data / 'shards'}",
            f"--workdir={found[model]}",
            "--config.training.steps=120",
            "--config.optimizer.boundaries=(90,)",
        )
    return found


@pytest.fixture(scope="module")
def accuracy(workdirs):
    """Mean class accuracy on the 120 test clips, by model."""
    reached = {}
    for model, workdir in workdirs.items():
        (summary,) = workdir.glob("evaluation/*/summary.json")
        reached[model] = json.loads(summary.read_text())["mean_class_accuracy"]
    return reached


def deviations(probability, clips):
    """Three standard errors of an accuracy."""
    return 3 * np.sqrt(probability * (1 - probability) / clips)


@pytest.mark.slow
def test_d_learns_what_only_d_can_know(accuracy):
    assert accuracy["D"] >= 0.9
    assert accuracy["D"] - accuracy["A"] >= 0.2


@pytest.mark.slow
def test_a_stays_at_its_ceiling(accuracy, synthesize):
    """More would mean that the clips leak."""
    best = synthesize.ceilings()["A"].overall
    assert accuracy["A"] <= best + deviations(best, 120)


@pytest.mark.slow
def test_d_loses_what_its_construction_predicts(data, workdirs, accuracy, run, tmp_path):
    run(
        "data/probe.py",
        f"--shards={data / 'shards'}",
        f"--labels={data / 'sprites' / 'labels.csv'}",
        f"--json={tmp_path / 'probe.json'}",
        "--runs",
        workdirs["D"],
    )
    (found,) = json.loads((tmp_path / "probe.json").read_text()).values()
    by_probe = found["accuracy"]
    assert by_probe["as trained"]["all"] == pytest.approx(accuracy["D"])
    chance = 0.5 + deviations(0.5, 40)
    assert by_probe["no guidance"]["Act"] <= chance
    assert by_probe["shuffled"]["Hop"] <= chance
    assert by_probe["reversed"]["Hop"] <= 1 - by_probe["as trained"]["Hop"] + 0.1
    for kind in ("Swing", "Act"):
        assert by_probe["shuffled"][kind] >= by_probe["as trained"][kind] - 0.1


@pytest.mark.slow
def test_what_is_no_run_of_d_is_refused_in_one_line(data, workdirs, run, tmp_path):
    shards, labels = data / "shards", data / "sprites" / "labels.csv"
    for workdir, table, message in (
        (workdirs["A"], labels, f"{workdirs['A']}: no run of model D"),
        (tmp_path, labels, f"{tmp_path / 'config.json'}: no such file"),
        (workdirs["D"], shards / "videos.csv", "videos.csv: no labels.csv of data/synthesize.py"),
    ):
        flags = (f"--shards={shards}", f"--labels={table}", "--runs", workdir)
        result = run("data/probe.py", *flags, expect=2)
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert message in line
