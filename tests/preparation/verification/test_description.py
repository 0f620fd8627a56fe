"""`dataset.json`: what cannot be is refused by name."""

import json

import pytest

from stpyramid_jax.preparation.verification.inspection import inspect
from stpyramid_jax.preparation.writing import output

HOSTILE = [
    "",
    "[]",
    "null",
    "{",
    "[" * 100_000,
    '"\\ud800"',
    "\ufeff{}",
    "1e999",
    '{"format": [2]}',
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_description_of_something_else_is_one_line(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    (problem,) = inspect(tmp_path).problems
    assert problem.startswith("dataset.json: ")


@pytest.mark.parametrize(
    ("change", "sign_of_it"),
    [
        ({"shards": 10**12}, "shards are 1000000000000, files are"),
        ({"shards": True}, "shards is of type bool, not int"),
        ({"classes": [["Jump"], "Run"]}, "classes are not different names"),
        ({"classes": ["Run", "Run"]}, "classes are not different names"),
        ({"families": ["rgb", "depth"]}, "families are ['rgb', 'depth']"),
        ({"families": ["rgb", "flow", "warped"]}, "'clips-warped.tfrecord-00000-of-00003' is not"),
        ({"name": "../x\ud800"}, "is not among the files"),
        ({"parameters": {"size": "64x48", "flow": {"bound": 20}}}, "parameters.size is '64x48'"),
        ({"parameters": {"size": [64, 48], "flow": []}}, "parameters.flow.bound is None"),
        ({"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}}, "'../../etc/passwd'"),
        ({"files": {"a\nb": {}}, "splits": [1]}, r"'a\nb'"),
        ({"rgb_frames": 47}, "48 rgb_frames are listed, dataset.json says 47"),
        ({"errors": 1}, "0 errors are listed, dataset.json says 1"),
        ({"splits": ["other"]}, "videos.csv: its first line is not name,path,"),
        ({"digest": "0" * 64}, "digest is not that of its parameters and files"),
    ],
)
def test_a_description_that_cannot_be_is_refused_by_name(copy, change, sign_of_it):
    dataset = json.loads((copy / "dataset.json").read_text()) | change
    if "digest" not in change:
        dataset["digest"] = output.digest_of(dataset["parameters"], dataset["files"])
    (copy / "dataset.json").write_text(json.dumps(dataset))
    assert any(sign_of_it in problem for problem in inspect(copy).problems)
