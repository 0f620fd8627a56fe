"""Every format is read to the bit; no broken file does more than raise one clear line."""

import json
import pickle
import struct
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from stpyramid_jax.models.pretrained.formats import read_arrays
from tests.models.pretrained.samples import blob, caffemodel, field

RNG = np.random.default_rng(0)
ARRAYS = {
    "conv1.weight": RNG.normal(size=(4, 3, 2, 2)).astype(np.float32),
    "conv1.bias": RNG.normal(size=4).astype(np.float32),
}


def refused(path, *words):
    """Reading raises one line that names the file and says all words."""
    with pytest.raises(ValueError, match="weights ") as error:
        read_arrays(path)
    message = str(error.value)
    assert message.startswith(f"weights {path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_safetensors_keep_every_dtype_and_their_metadata(tmp_path):
    arrays = {
        **ARRAYS,
        "half": np.array([1, 2.5], np.float16),
        "brain": np.array([1, -3.25], ml_dtypes.bfloat16),
        "double": np.array([[1 / 3]]),
        "count": np.array(7),
    }
    save_file(arrays, tmp_path / "a.safetensors", {"made": "here"})
    file = read_arrays(tmp_path / "a.safetensors")
    same(file.arrays, arrays)
    assert file.metadata == {"made": "here"}


def test_a_format_is_told_by_content(tmp_path):
    """Files are renamed; one written as safetensors is that, whatever it is called."""
    save_file(ARRAYS, tmp_path / "a.pth")
    same(read_arrays(tmp_path / "a.pth").arrays, ARRAYS)
    np.savez(tmp_path / "b.npz", **ARRAYS)
    (tmp_path / "b.npz").rename(tmp_path / "b.safetensors")
    same(read_arrays(tmp_path / "b.safetensors").arrays, ARRAYS)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_state_dicts_are_found_in_checkpoints(tmp_path, legacy, key):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    state["brain"] = torch.tensor([1.5], dtype=torch.bfloat16)
    state["trained"] = torch.nn.Parameter(torch.ones(2))
    saved = {"epoch": 3, key: state, "best": 0.5} if key else state
    torch.save(saved, tmp_path / "a.tar", _use_new_zipfile_serialization=not legacy)
    expected = {"brain": np.float32([1.5]), "trained": np.ones(2, np.float32)}
    same(read_arrays(tmp_path / "a.tar").arrays, ARRAYS | expected)


@pytest.mark.parametrize("v1", [False, True], ids=["layer", "layers"])
@pytest.mark.parametrize("legacy", [False, True], ids=["shape", "num channels height width"])
@pytest.mark.parametrize("double", [False, True], ids=["data", "double_data"])
def test_caffemodels_of_every_age(tmp_path, v1, legacy, double):
    """The bytes are written by hand after caffe.proto, not by the messages that read them."""
    layers = {"conv1/7x7_s2": [RNG.normal(size=(4, 3, 2, 2)), RNG.normal(size=4)]}
    path = tmp_path / "net.caffemodel.v5"
    path.write_bytes(caffemodel(layers, v1=v1, legacy=legacy, double=double))
    kernel, bias = (a.astype(np.float64 if double else np.float32) for a in layers["conv1/7x7_s2"])
    bias = bias.reshape(1, 1, 1, 4) if legacy else bias
    same(read_arrays(path).arrays, {"conv1/7x7_s2:0": kernel, "conv1/7x7_s2:1": bias})


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, folder):
        self.path = folder / "executed"

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write_safetensors(path):
    path.write_bytes(save(ARRAYS))


def write_torch(path):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}, path)


def write_torch_legacy(path):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_caffe(path):
    path.write_bytes(caffemodel({"conv1": [*ARRAYS.values()]}))


def write_npz(path):
    np.savez(path.with_suffix(".npz"), **ARRAYS)
    path.with_suffix(".npz").rename(path)


WRITERS = {
    "a.safetensors": write_safetensors,
    "a.pth": write_torch,
    "a.pt": write_torch_legacy,
    "a.caffemodel": write_caffe,
    "a.npz": write_npz,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.97])
def test_truncated_files_are_refused(tmp_path, name, keep):
    path = tmp_path / name
    WRITERS[name](path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refused(path)


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_no_file_of_weights_is_refused(tmp_path, name):
    path = tmp_path / name
    refused(path, "no such file")
    path.write_bytes(b"")
    refused(path, "empty")
    path.write_text("epoch,loss\n1,0.5\n")
    refused(path)
    path.write_bytes(np.random.default_rng(1).bytes(1000))
    refused(path)


def test_a_folder_and_other_files_are_refused(tmp_path):
    refused(tmp_path, "a folder")
    (tmp_path / "notes.txt").write_text("weights are elsewhere")
    refused(tmp_path / "notes.txt", "not weights", ".safetensors")


@pytest.mark.parametrize("length", [2**63, 10**12, 10**8, 0])
def test_an_absurd_length_of_a_safetensors_header_is_refused(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
    refused(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 40]},
        {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
    ],
)
def test_a_header_that_promises_what_is_not_there_is_refused(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refused(path)


def test_pickles_are_never_executed(tmp_path):
    torch = pytest.importorskip("torch")
    trap = Trap(tmp_path)
    for legacy in (False, True):
        path = tmp_path / f"trap-{legacy}.pth"
        torch.save({"a": torch.ones(2), "b": trap}, path, _use_new_zipfile_serialization=not legacy)
        refused(path, "never loaded", "state dict")
    (tmp_path / "trap.pt").write_bytes(pickle.dumps(trap))
    refused(tmp_path / "trap.pt", "never loaded")
    assert not trap.path.exists()


def test_pickles_inside_npz_are_never_executed(tmp_path):
    trap = Trap(tmp_path)
    np.savez(tmp_path / "trap.npz", a=np.array([trap], dtype=object))
    refused(tmp_path / "trap.npz", "allow_pickle=False")
    assert not trap.path.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.pt"])
def test_without_torch_the_remedy_is_named(tmp_path, name, monkeypatch):
    path = tmp_path / name
    WRITERS[name](path)
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(path, "PyTorch", "not installed", "pip install torch", ".safetensors")


def test_a_checkpoint_that_holds_itself_ends(tmp_path):
    torch = pytest.importorskip("torch")
    state = {}
    state["state_dict"] = state
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds no arrays"):
        read_arrays(tmp_path / "a.pth")


def test_a_state_that_is_no_dictionary_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.ones(3), tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "Tensor", "state dict")
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "no arrays")


def caffe_blob(content):
    return field(100, field(1, b"conv1") + field(7, content))


@pytest.mark.parametrize(
    "content",
    [
        blob(np.ones((2, 3)))[:-2] + bytes([100, 100]),
        field(5, bytes(24)) + field(7, field(1, b"\xff" * 9 + b"\x01")),
        field(5, bytes(23)) + field(7, field(1, bytes([6]))),
        field(7, field(1, bytes([6]))),
        b"".join(field(i, 1 << 30) for i in (1, 2, 3, 4)) + field(5, bytes(4)),
    ],
    ids=["larger shape", "negative", "torn number", "no numbers", "huge"],
)
def test_a_blob_whose_shape_and_numbers_disagree_is_refused(tmp_path, content):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(caffe_blob(content))
    refused(path)
