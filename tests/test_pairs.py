"""Pairs of classes that models confuse: counts by hand, and a picture of what was resolved."""

import sys

import numpy as np
import pytest

from stpyramid_jax.evaluation.scores import Scores, save
from stpyramid_jax.input.tfrecord import Shards
from tests.conftest import load


@pytest.fixture(scope="module")
def pairs():
    return load("docs/pairs.py")


def scores_of(shards, guesses):
    """Scores of the test clips that say just these classes, by name of the clip."""
    clips = [shards.videos[number] for number in shards.select("split1", "test")]
    taken = [guesses.get(clip.name, clip.label) for clip in clips]
    return Scores(
        np.eye(len(shards.classes))[taken],
        np.array([clip.label for clip in clips]),
        tuple(clip.name for clip in clips),
        tuple(shards.classes),
        {},
    )


@pytest.fixture
def run(pairs, sprites, tmp_path, monkeypatch, capsys):
    shards = Shards(sprites / "shards")

    def run(first, last):
        arguments = ["pairs.py", f"--shards={sprites / 'shards'}", f"--out={tmp_path / 'out.png'}"]
        for name, runs in (("first", first), ("last", last)):
            paths = [tmp_path / f"{name}{number}.npz" for number in range(len(runs))]
            for path, guesses in zip(paths, runs, strict=True):
                save(scores_of(shards, guesses), path)
            arguments += ["--model", name, *map(str, paths)]
        monkeypatch.setattr(sys, "argv", arguments)
        pairs.main()
        return capsys.readouterr().out

    run.clips = [shards.videos[number] for number in shards.select("split1", "test")]
    run.classes, run.picture = shards.classes, tmp_path / "out.png"
    return run


def test_mistakes_are_counted_by_pair_in_either_direction(run):
    one, two = run.clips[:2]
    mistaken = {one.name: two.label, two.name: one.label}
    text = run([mistaken, {one.name: two.label}], [{}, {one.name: two.label}])
    pair = " / ".join(sorted(run.classes[clip.label] for clip in (one, two)))
    (line,) = [line for line in text.splitlines() if line.startswith(pair)]
    assert line.split()[-2:] == ["1.50", "0.50"]
    assert run.picture.stat().st_size > 0


def test_a_clip_that_is_mistaken_otherwise_is_not_resolved(run, capsys):
    one, two, three = run.clips[:3]
    with pytest.raises(SystemExit):
        run([{one.name: two.label}], [{one.name: three.label}])
    assert "last has no clip right that first has wrong" in capsys.readouterr().err
    assert not run.picture.exists()


def test_models_of_unlike_files_are_refused(run, capsys):
    with pytest.raises(SystemExit):
        run([{}, {}], [{}])
    assert "other clips, or more of them" in capsys.readouterr().err
