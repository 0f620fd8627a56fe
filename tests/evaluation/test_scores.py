"""Scores as a file: whole and of the right kind or refused in a line; fused clip by clip."""

import dataclasses
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from stpyramid_jax.evaluation.scores import Scores, fuse, load, matched, probabilities, save


def draw(seed=0, clips=6, classes=3, **protocol):
    rng = np.random.default_rng(seed)
    names = tuple(f"clip {n}" for n in range(clips))
    kinds = tuple(f"class {n}" for n in range(classes))
    labels = np.arange(clips) % classes
    return Scores(rng.normal(size=(clips, classes)), labels, names, kinds, protocol)


def shuffled(run, seed=1):
    order = np.random.default_rng(seed).permutation(len(run.names))
    names = tuple(run.names[n] for n in order)
    return dataclasses.replace(run, scores=run.scores[order], labels=run.labels[order], names=names)


def test_probabilities_are_the_softmax_however_large_scores_are():
    scores = np.random.default_rng(0).normal(size=(2, 3, 5))
    np.testing.assert_allclose(probabilities(scores), softmax(scores, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(probabilities(scores[0, 0] + 1e4), softmax(scores[0, 0]), rtol=1e-9)
    np.testing.assert_array_equal(probabilities(np.array([-1e9, 1e9])), [0, 1])


def test_what_is_saved_is_loaded(tmp_path):
    names = ("a,b", "two\nlines", "<i> '\"", "日本 🙂", " spaces ")
    run = Scores(
        np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32),
        np.array([0, 1, 1, 0, 1], np.int32),
        names,
        ("été", "x y"),
        {"split": "split1", "positions": 25, "nested": [1, None]},
    )
    save(run, tmp_path / "scores.npz")
    again = load(tmp_path / "scores.npz")
    assert (again.names, again.classes) == (names, ("été", "x y"))
    assert again.protocol == run.protocol
    np.testing.assert_array_equal(again.scores, run.scores)
    np.testing.assert_array_equal(again.labels, run.labels)
    assert again.scores.dtype == np.float32


def damaged(path, what):
    """Writes a file that is none of scores."""
    arrays = {
        "scores": np.zeros((2, 2)),
        "labels": np.array([0, 1]),
        "names": np.array(["a", "b"]),
        "classes": np.array(["x", "y"]),
        "protocol": np.array("{}"),
    }
    match what:
        case "text":
            path.write_text("scores")
        case "empty":
            path.write_bytes(b"")
        case "cut":
            np.savez(path, **arrays)
            path.write_bytes(path.read_bytes()[:-100])
        case "flipped":
            np.savez(path, **arrays)
            data = bytearray(path.read_bytes())
            data[len(data) // 8] ^= 255
            path.write_bytes(data)
        case "one array":
            with path.open("wb") as file:
                np.save(file, arrays["scores"])
        case "pickle":
            path.write_bytes(pickle.dumps(arrays))
        case "objects":
            np.savez(path, **arrays | {"names": np.array(["a", {}], object)})
        case "huge":
            header = "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 9), }"
            header = header.ljust(117) + "\n"
            with zipfile.ZipFile(path, "w") as file:
                head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
                file.writestr("scores.npy", head + header.encode())
        case dict():
            np.savez(path, **{k: v for k, v in (arrays | what).items() if v is not None})


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("text", ""),
        ("empty", ""),
        ("cut", ""),
        ("flipped", ""),
        ("one array", ""),
        ("pickle", ""),
        ("objects", "allow_pickle"),
        ("huge", ""),
        ({"protocol": None}, "protocol is not a file"),
        ({"protocol": np.array("[1]")}, "protocol is not an object"),
        ({"protocol": np.array("{")}, ""),
        ({"scores": np.zeros((3, 2))}, r"2 clips and 2 classes have scores \(3, 2\)"),
        ({"scores": np.zeros(2)}, r"scores \(2,\)"),
        ({"scores": np.array([["a", "b"]] * 2)}, "finite numbers"),
        ({"scores": np.array([[0, np.nan]] * 2)}, "finite numbers"),
        ({"labels": np.array([0, 2])}, r"labels are not all in 0\.\.1"),
        ({"labels": np.array([0.0, 1])}, "labels are of type float64"),
        ({"names": np.array(["a", "a"])}, "not all different"),
        ({"names": np.array("a")}, ""),
    ],
    ids=str,
)
def test_what_is_no_file_of_scores_is_refused_in_one_line(what, reason, tmp_path):
    path = tmp_path / "x.npz"
    damaged(path, what)
    with pytest.raises(
        ValueError, match=rf"x\.npz: not the scores of an evaluation .*{reason}"
    ) as e:
        load(path)
    assert "\n" not in str(e.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "no.npz"):
        with pytest.raises(ValueError, match=f"{path}: no such file"):
            load(path)


def test_fusing_adds_scores_before_the_softmax_clip_by_clip():
    first, second = draw(0), shuffled(draw(1))
    fused = fuse([first, second], [1, 1.5])
    places = [second.names.index(name) for name in first.names]
    expected = (first.scores + 1.5 * second.scores[places]) / 2.5
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-12)
    np.testing.assert_array_equal(fused.labels, first.labels)
    assert fused.names == first.names


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.lists(st.floats(0.1, 9), min_size=1, max_size=4))
def test_order_of_runs_and_clips_does_not_matter(seed, weights):
    runs = [draw(seed + k) for k in range(len(weights))]
    fused = fuse(runs, weights)
    other = fuse([shuffled(run, k) for k, run in enumerate(runs)][::-1], weights[::-1])
    np.testing.assert_allclose(matched([fused, other])[1].scores, fused.scores, rtol=1e-12)


def test_a_weight_of_nothing_leaves_the_other():
    first, second = draw(0), draw(1)
    np.testing.assert_allclose(fuse([first, second], [0, 3]).scores, second.scores)
    np.testing.assert_allclose(fuse([first], [7]).scores, first.scores)


def test_the_protocol_tells_what_was_fused():
    fused = fuse(
        [draw(0, split="split1", step=5, crop=8), draw(1, split="split1", step=7)], [1, 1.5]
    )
    expected = {"split": "split1", "step": "5 + 7", "crop": "8 + -", "weights": [1, 1.5]}
    unknown = {"dataset": "-", "protocol": "-"}
    assert fused.protocol == unknown | expected


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (draw(clips=5), "1 clips only in scores 1: 'clip 5'"),
        (draw(clips=11), "5 clips only in scores 2: 'clip 6', 'clip 7', 'clip 8' and 2 more"),
        (draw(classes=4), "1 classes only in scores 2: 'class 3'"),
        (dataclasses.replace(draw(), labels=np.array([0, 1, 2, 1, 1, 2])), "labels .*: 'clip 3'$"),
        (
            dataclasses.replace(draw(), classes=("class 1", "class 0", "class 2")),
            "scores 2: other order of classes",
        ),
        (
            dataclasses.replace(draw(), names=(*draw().names[:5], "new\nline")),
            r"1 clips only in scores 1: 'clip 5'; 1 clips only in scores 2: 'new\\nline'",
        ),
    ],
)
def test_other_clips_are_refused_and_named(other, line):
    with pytest.raises(ValueError, match=line) as refused:
        fuse([draw(), other], [1, 1])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [-1, 2], [0, 0], [np.nan, 1], [np.inf, 1]])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        fuse([draw(), draw()], weights)
