"""The configs: every choice of arguments is an experiment, with the values of its sources."""

import dataclasses
import itertools
import re

import pytest

from configs import hmdb51, quickstart, ucf10, ucf101
from stpyramid_jax.experiment import build_experiment
from stpyramid_jax.models.backbones import BACKBONES
from stpyramid_jax.training.optimizer import schedule

FULL = {"ucf101": ucf101, "hmdb51": hmdb51}
STAGED = {**FULL, "ucf10": ucf10}


def experiment(module, **arguments):
    argument = ",".join(f"{key}={value}" for key, value in arguments.items())
    return build_experiment(module.get_config(argument).to_dict(), num_classes=5)


@pytest.mark.parametrize("name", STAGED)
def test_every_choice_of_arguments_is_an_experiment(name):
    for model, backbone, split, stage in itertools.product(
        "ABCD", BACKBONES, "123", ("all", "spatial", "temporal", "pyramid")
    ):
        if (model, stage) == ("A", "pyramid"):
            continue  # refused
        built = experiment(STAGED[name], model=model, backbone=backbone, split=split, stage=stage)
        assert built.data.dir == f"shards/{name}"
        assert built.data.split == f"split{split}"
        assert built.model.backbone == backbone
        streams = stage if stage in ("spatial", "temporal") else "both"
        assert (built.input.streams, built.model.streams) == (streams, streams)
        assert built.model.attention == (streams == "both" and model == "D")
        assert bool(built.training.weights) == (stage == "pyramid")


def at(built, step):
    """Rates of both streams and of the fusion, as learnt with after so many steps."""
    solver = built.optimizer
    rate = float(schedule(solver, built.training.batch_size)(step))
    return [rate * solver.spatial_multiplier, rate * solver.temporal_multiplier, rate]


@pytest.mark.parametrize(
    ("name", "stage", "drops", "steps"),
    [
        ("ucf101", "spatial", (1500, 3000), 3500),
        ("ucf101", "temporal", (10000, 16000), 18000),
        ("hmdb51", "spatial", (1000, 2000), 2500),
        ("hmdb51", "temporal", (4000, 6000), 7000),
    ],
)
def test_a_stream_alone_has_the_solver_of_tsn(name, stage, drops, steps):
    """Of TSN's published solvers; the stage and the row of the ablation are the same run."""
    built = experiment(FULL[name], stage=stage)
    assert built == experiment(FULL[name], model=stage)
    rate, clip_norm, dropout, scales = {
        "spatial": (0.001, 40.0, 0.8, (1.0, 0.875, 0.75, 0.66)),
        "temporal": (0.005, 20.0, 0.7, (1.0, 0.875, 0.75)),
    }[stage]
    stream = ("spatial", "temporal").index(stage)
    for step, expected in (
        (0, rate),
        (drops[0] - 1, rate),
        (drops[0], rate / 10),
        (drops[1] - 1, rate / 10),
        (drops[1], rate / 100),
    ):
        assert at(built, step)[stream] == pytest.approx(expected)
    assert (built.training.steps, built.training.batch_size) == (steps, 128)
    assert getattr(built.optimizer, f"{stage}_clip_norm") == clip_norm
    assert (built.optimizer.momentum, built.optimizer.weight_decay) == (0.9, 5e-4)
    assert (built.model.dropout, built.model.head_std) == (dropout, 0.001)
    assert built.input.scales == scales


@pytest.mark.parametrize("name", FULL)
def test_both_streams_at_once_have_both_solvers(name):
    """All but the schedule, of which there is one."""
    at_once = experiment(FULL[name], model="A")
    for stage in ("spatial", "temporal"):
        alone = experiment(FULL[name], stage=stage)
        changed = {"boundaries": at_once.optimizer.boundaries}
        assert dataclasses.replace(alone.optimizer, **changed) == at_once.optimizer
    assert at(at_once, 0) == pytest.approx([0.001, 0.005, 0.001])


def test_a_pyramid_goes_on_from_both_streams():
    built = experiment(ucf101, stage="pyramid")
    assert built.training.weights == "spatial=ckpt/spatial,temporal=ckpt/temporal"
    assert at(built, 0) == pytest.approx([0.0001, 0.0005, 0.001])
    assert built.training.steps < experiment(ucf101, stage="all").training.steps
    for config in (ucf101, hmdb51):
        for source in experiment(config, stage="pyramid").training.weights.split(","):
            stage, workdir = source.split("=")
            lines = [line for line in config.__doc__.splitlines() if f"stage={stage} " in line]
            assert lines
            assert all(f"--workdir={workdir} " in line for line in lines)


def test_a_smaller_batch_takes_a_smaller_rate():
    config = ucf101.get_config()
    config.training.batch_size = 32
    built = build_experiment(config.to_dict(), 5)
    assert at(built, 0) == pytest.approx([0.00025, 0.00125, 0.00025])


@pytest.mark.parametrize(
    ("config", "rate", "boundary", "warmup"), [(ucf10, 0.001, 240, 20), (quickstart, 0.01, 180, 30)]
)
def test_small_sets_have_one_rate_and_one_norm(config, rate, boundary, warmup):
    """The solver under which their documented accuracies were measured."""
    for model in "AD":
        built = experiment(config, model=model)
        for step, expected in (
            (0, rate / warmup),
            (warmup - 1, rate),
            (boundary - 1, rate),
            (boundary, rate / 10),
        ):
            assert at(built, step) == pytest.approx([expected] * 3)
        solver = built.optimizer
        assert (solver.clip_norm, solver.spatial_clip_norm, solver.temporal_clip_norm) == (40, 0, 0)
        assert (solver.momentum, solver.weight_decay) == (0.9, 5e-4)
        assert built.training.batch_size == 32


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("stge=all", "config argument 'stge=all': write key=value"),
        ("D", "config argument 'D': write key=value"),
        ("stage=both", "config argument stage=both: one of all, spatial, temporal, pyramid"),
        ("model=temporal,stage=spatial", "model=temporal,stage=spatial: a stream alone is stage="),
        ("model=spatial,stage=pyramid", "model=spatial,stage=pyramid: a stream alone is stage="),
        ("model=A,stage=pyramid", "the streams of A meet in their scores"),
        ("model=E", "model='E': one of spatial, temporal, A, B, C, D"),
        ("backbone=bn-inception", "did you mean 'bn_inception'?"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(argument, message):
    for config in STAGED.values():
        with pytest.raises(ValueError, match=re.escape(message)) as refused:
            build_experiment(config.get_config(argument).to_dict(), 5)
        assert "\n" not in str(refused.value)
