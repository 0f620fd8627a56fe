"""Files of weights as arrays under the file's own names: safetensors, PyTorch, Caffe and NumPy.

Nothing of a file is ever executed: pickles go through PyTorch's restricted loader alone.
"""

import contextlib
import functools
import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stpyramid_jax.extras import extra


class ArrayFile(NamedTuple):
    """What a file holds.

    Attributes:
      arrays: by the file's own names; blob i of a Caffe layer is `<layer>:<i>`. Shapes and dtypes
        are the file's, save that PyTorch's bfloat16 comes as float32, which holds it exactly.
      metadata: texts that a safetensors file carries beside its arrays; else empty.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def read_arrays(path: str | Path) -> ArrayFile:
    """Reads `.safetensors`, `.pth` (`.pt`, `.tar`), `.caffemodel` or `.npz`, told by their content.

    Raises:
      ValueError: one line: there is no such file, or it is damaged, empty or of another kind, or
        reading it needs a package that is not installed.
    """
    path = Path(path)
    if not path.is_file():
        reason = "a folder, not a file" if path.is_dir() else "no such file"
        raise ValueError(f"weights {path}: {reason}")
    try:
        kind = _kind(path)
        file = _READERS[kind](path)
    except (_Refused, ModuleNotFoundError) as error:
        raise ValueError(f"weights {path}: {_line(error)}") from error
    except OSError as error:
        raise ValueError(f"weights {path}: cannot be read: {_line(error)}") from error
    except Exception as error:
        raise ValueError(
            f"weights {path}: damaged, or not what it seems: {_line(error)}"
        ) from error
    if not file.arrays:
        raise ValueError(f"weights {path}: holds no arrays")
    return file


@contextlib.contextmanager
def written_whole(path: Path) -> Generator[Path, None, None]:
    """A path beside `path` to write to; it takes its place when nothing was raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _Refused(Exception):
    """Carries a sentence for the user."""


def _line(error: Exception) -> str:
    """What an exception says, in one line of a sane length; a file may have a say in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(character for character in text if character.isprintable())[:300]


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(9)
    if not head:
        raise _Refused("the file is empty")
    if head.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            numpy = all(name.endswith(".npy") for name in archive.namelist())
        return ".npz" if numpy else ".pth"
    if head[8:] == b"{" or path.suffix == ".safetensors":
        return ".safetensors"
    if ".caffemodel" in path.name:  # published with suffixes behind it, as in .caffemodel.v5
        return ".caffemodel"
    if head[0] == 0x80 or path.suffix in (".pth", ".pt", ".tar"):  # a pickle's first byte
        return ".pth"
    raise _Refused("not weights; give a .safetensors, .pth, .caffemodel or .npz file")


def _read_safetensors(path: Path) -> ArrayFile:
    with extra("interop"):
        from safetensors import safe_open

    with safe_open(path, framework="np") as file:  # bfloat16 is known to NumPy from JAX
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file, not a dictionary: it cannot be iterated
        return ArrayFile(arrays, file.metadata() or {})


def _read_npz(path: Path) -> ArrayFile:
    with np.load(path, allow_pickle=False) as archive:
        return ArrayFile({name: archive[name] for name in archive.files}, {})


def _read_torch(path: Path) -> ArrayFile:
    try:
        import torch
    except ImportError as error:
        raise _Refused(
            "only PyTorch reads this format, and it is not installed; pip install torch, or give "
            "the same weights as .safetensors"
        ) from error

    try:
        with warnings.catch_warnings(action="ignore"):  # on how the file was pickled
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _Refused(
            "damaged, or holds objects besides arrays, which are never loaded; save its state dict "
            "alone"
        ) from error
    for _ in range(2):  # checkpoints of training keep the weights one level down, or two
        if isinstance(state, dict):
            inner = (state.get("state_dict"), state.get("model"))
            state = next((level for level in inner if isinstance(level, dict)), state)
    if not isinstance(state, dict):
        raise _Refused(f"holds a {type(state).__name__}, not a dictionary of arrays (a state dict)")
    arrays = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            exact = value.float() if value.dtype == torch.bfloat16 else value
            arrays[str(name)] = exact.detach().numpy()
    return ArrayFile(arrays, {})


def _read_caffe(path: Path) -> ArrayFile:
    net = _net_class().FromString(path.read_bytes())
    arrays = {}
    for layer in (*net.layer, *net.layers):
        for index, blob in enumerate(layer.blobs):
            arrays[f"{layer.name}:{index}"] = _blob_array(blob, f"{layer.name}:{index}")
    return ArrayFile(arrays, {})


def _blob_array(blob: Any, name: str) -> np.ndarray:
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    else:
        shape = (blob.num, blob.channels, blob.height, blob.width)
    content, dtype = (blob.double_data, "<f8") if blob.double_data else (blob.data, "<f4")
    values = np.frombuffer(b"".join(content), dtype)
    if min(shape, default=0) < 0 or math.prod(shape) != values.size:
        raise _Refused(f"{name} is damaged: {values.size} values for the shape {shape}")
    return values.reshape(shape)


@functools.cache
def _net_class() -> Any:
    """The message class of `NetParameter` in Caffe's caffe.proto, as far as it holds weights.

    `layer` is the present form and `layers` that of 2014. Fields that are left out here are
    skipped in parsing. Packed numbers have the wire format of bytes, which NumPy reads at once.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="stpyramid_jax/caffe.proto", package="stpyramid_jax.caffe", syntax="proto2"
    )
    for message, fields in _caffe_fields(field):
        entry = file.message_type.add(name=message)
        for name, number, kind, many in fields:
            label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
            one = entry.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                one.type, one.type_name = field.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                one.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindMessageTypeByName(f"{file.package}.NetParameter")
    return message_factory.GetMessageClass(descriptor)


def _caffe_fields(field: Any) -> Iterator[tuple[str, list[tuple[str, int, Any, bool]]]]:
    """Messages of caffe.proto; of each field the name, number, type or message, and if repeated."""
    size, text, raw = field.TYPE_INT32, field.TYPE_STRING, field.TYPE_BYTES
    yield "BlobShape", [("dim", 1, field.TYPE_INT64, True)]
    yield (
        "BlobProto",
        [
            ("num", 1, size, False),
            ("channels", 2, size, False),
            ("height", 3, size, False),
            ("width", 4, size, False),
            ("data", 5, raw, True),
            ("shape", 7, "BlobShape", False),
            ("double_data", 8, raw, True),
        ],
    )
    yield "LayerParameter", [("name", 1, text, False), ("blobs", 7, "BlobProto", True)]
    yield "V1LayerParameter", [("name", 4, text, False), ("blobs", 6, "BlobProto", True)]
    yield (
        "NetParameter",
        [("layer", 100, "LayerParameter", True), ("layers", 2, "V1LayerParameter", True)],
    )


_READERS = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pth": _read_torch,
    ".caffemodel": _read_caffe,
}
