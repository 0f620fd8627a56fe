"""`videos.csv` and `index.npz`: where they contradict themselves or the files, a line says it."""

import io
import zipfile

import numpy as np
import pytest

from stpyramid_jax import records
from stpyramid_jax.preparation.verification.inspection import inspect
from tests.preparation.verification.conftest import edit, sign


@pytest.mark.parametrize(
    ("replacement", "sign_of_it"),
    [
        (("Jump,0", "Jump,1"), "row 1: label 1 is not that of 'Jump'"),
        (("Jump,0", "Hop,0"), "row 1: unknown class 'Hop'"),
        (("16,15,0", "16,16,0"), "row 1: 16 fields between 16 frames"),
        (("16,15,0", "16,15,3"), "row 1: shard 3, of 3"),
        (("16,15,0", "16,15,x"), "row 1: invalid literal for int()"),
        (("16,15,0", "17,16,0"), "49 rgb_frames are listed, dataset.json says 48"),
        (("16,15,0,test", "16,15,0,both"), "row 1: parts 'both', not train, test or none"),
        (("Jump_g02,12", "Jump_g01,12"), "group 'Jump_g01' is on both sides of split1"),
        (("16,15,0", "16,15,0,0"), "row 1: has 10 columns, not 9"),
        (("v_Jump_g02", "v_Jump_g01"), "'Jump/v_Jump_g01_c01' is listed 2 times"),
        (("Jump", '"Jump'), "videos.csv: "),
    ],
)
def test_lists_that_contradict_each_other_are_named(copy, replacement, sign_of_it):
    edit(copy, replacement)
    problems = inspect(copy).problems
    assert any(problem.startswith("videos.csv: ") for problem in problems)
    assert any(sign_of_it in problem for problem in problems)


def shifted(offsets):
    return {**offsets, "rgb_offsets": offsets["rgb_offsets"] + 1}


def huge(offsets):
    offsets["flow_offsets"][3] = 2**63 - 1
    offsets["flow_offsets"][4] = -(2**63)
    return offsets


def unsorted(offsets):
    offsets["rgb_offsets"][3:5] = offsets["rgb_offsets"][4:2:-1]
    return offsets


@pytest.mark.parametrize(
    ("change", "sign_of_it"),
    [
        (shifted, "rgb of 'Jump/v_Jump_g01_c01' is not after the video before"),
        (huge, "flow of 'Jump/v_Jump_g01_c01' is not after"),
        (unsorted, "rgb of 'Jump/v_Jump_g01_c01' is not after"),
        (lambda o: {**o, "rgb_offsets": o["rgb_offsets"][:-1]}, "int64(50,), of other videos"),
        (lambda o: {**o, "rgb_offsets": o["rgb_offsets"] * 1.0}, "float64(51,), of other videos"),
        (lambda o: {"rgb_offsets": o["rgb_offsets"]}, "not an index (KeyError"),
        (lambda o: {**o, "rgb_offsets": np.array([{}])}, "not an index (ValueError"),
    ],
)
def test_an_index_of_something_else_is_named(copy, change, sign_of_it):
    with np.load(copy / "index.npz") as index:
        np.savez(copy / "index.npz", **change(dict(index)), allow_pickle=True)
    sign(copy)
    problems = inspect(copy).problems
    assert any(p.startswith("index.npz: ") and sign_of_it in p for p in problems)


def test_bytes_behind_the_last_record_are_named(copy):
    path = copy / "clips-flow.tfrecord-00001-of-00003"
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(records.encode_record(b"more"))
    sign(copy)
    found = f"index.npz: flow of shard 1 ends at {size}, its file at {size + 20}"
    assert found in inspect(copy).problems


def test_an_index_that_is_no_archive_is_named(copy):
    bad = io.BytesIO()
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr(
            "rgb_offsets.npy", b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i8'" + b"(" * 999
        )
    for data in (b"", b"PK", bad.getvalue(), b"\x93NUMPY\x01\x00"):
        (copy / "index.npz").write_bytes(data)
        sign(copy)
        assert any(p.startswith("index.npz: not an index (") for p in inspect(copy).problems)
