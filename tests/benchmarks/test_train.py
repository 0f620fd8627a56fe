"""The benchmark of training steps: both sides take the same step, or nothing is timed."""

import dataclasses

import numpy as np
import pytest

from tests.conftest import load


@pytest.fixture(scope="module")
def train():
    load("benchmarks/comparison.py")  # which the program imports by name
    return load("benchmarks/train.py")


def small(train, model):
    """A case that the eight devices of the tests share."""
    return train.Case(model, "squeezenet", side=40, batch=8)


def test_cases_are_models_with_each_backbone_and_the_quick_one_is_among_them(train):
    names = [str(case) for case in train.cases(quick=False)]
    assert len(set(names)) == len(names) == 4
    (quick,) = train.cases(quick=True)
    assert str(quick) in names


@pytest.mark.parametrize(("model", "snippets"), [("A", 1), ("D", 3)])
def test_a_batch_is_what_the_pipeline_gives(train, model, snippets):
    batch = train.noise(small(train, model))
    assert {name: array.shape for name, array in batch.items()} == {
        "rgb": (8, 40, 40, 3),
        "flow": (8, snippets, 40, 40, 20),
        "label": (8,),
    }
    assert batch["rgb"].dtype == batch["flow"].dtype == np.uint8


@pytest.mark.slow
def test_updates_agree(train, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend("benchmarks")
    case = small(train, "D")
    train.check_updates(case, train.first_state(case))


@pytest.mark.slow
def test_updates_of_another_solver_are_refused(train, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend("benchmarks")
    import torch_pyramid

    case, steps = small(train, "A"), torch_pyramid.steps
    state = train.first_state(case)

    def other(model, config, *rest):
        return steps(model, dataclasses.replace(config, clip_norm=config.clip_norm / 2), *rest)

    monkeypatch.setattr(torch_pyramid, "steps", other)
    with pytest.raises(ValueError, match="batch 8, updates: result"):
        train.check_updates(case, state)
