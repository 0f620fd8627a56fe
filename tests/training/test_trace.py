"""A trace for a profiler."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from stpyramid_jax.training.trace import Trace


def names_in(workdir):
    """Of the events in the traces of a workdir."""
    paths = sorted((workdir / "trace").glob("plugins/profile/*/perfetto_trace.json.gz"))
    traces = [json.loads(gzip.decompress(path.read_bytes())) for path in paths]
    return [event.get("name", "") for trace in traces for event in trace["traceEvents"]]


def train(workdir, steps, first=1, asked=True, fails=None):
    square = jax.jit(lambda x: jnp.tanh(x @ x))
    x = jnp.ones((64, 64))
    with Trace(workdir, first, asked) as trace:
        for step in range(first, steps + 1):
            with trace.step(step):
                if step == fails:
                    raise FloatingPointError("loss")
                x = square(x)
            trace.after(step, x)


@pytest.mark.parametrize("first", [1, 41])
def test_five_steps_after_two_are_traced(tmp_path, capsys, first):
    train(tmp_path, first + 9, first)
    names = names_in(tmp_path)
    assert names.count("train") == 5
    (profile,) = (tmp_path / "trace").glob("plugins/profile/*")
    assert list(profile.glob("*.xplane.pb"))
    said = capsys.readouterr().err
    assert str(profile) in said
    assert f"from step {first + 2}" in said


def test_a_run_that_is_too_short_leaves_what_there_is(tmp_path):
    train(tmp_path, 4)
    assert names_in(tmp_path).count("train") == 2
    train(tmp_path / "shorter", 2)
    assert names_in(tmp_path / "shorter") == []


def test_a_run_that_fails_leaves_what_there_is(tmp_path):
    with pytest.raises(FloatingPointError, match="loss"):
        train(tmp_path, 10, fails=4)
    assert "train" in names_in(tmp_path)
    train(tmp_path / "next", 10)  # the profiler is free again
    assert names_in(tmp_path / "next").count("train") == 5


def test_nothing_is_traced_unasked(tmp_path, capsys):
    train(tmp_path, 10, asked=False)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""
