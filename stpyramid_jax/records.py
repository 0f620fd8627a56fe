"""The shard format: TFRecord framing around `tf.train.Example`, without TensorFlow.

A record is `length (uint64) | masked CRC of length (uint32) | payload | masked CRC of payload`,
little-endian, where the CRC is CRC-32C and `mask(c) = rotate_right(c, 15) + 0xa282ead8`
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
The payload is a serialised `tf.train.Example`, so `tf.data` reads the same files.
"""

import os
import struct
from collections.abc import Mapping
from typing import Any

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FORMAT = 2
"""Number of this layout of a prepared folder; `dataset.json` carries it."""

FAMILIES = ("rgb", "flow", "warped")
"""A shard is a file of each that was prepared, of the same videos: frames, flow fields, and flow
fields without the motion of the camera."""

_LENGTH_BYTES = 12  # length and its checksum
_FOOTER_BYTES = 4


def shard_file(name: str, family: str, shard: int, shards: int) -> str:
    """Name of one file of `shards`, for a data set `name` and a family."""
    return f"{name}-{family}.tfrecord-{shard:05d}-of-{shards:05d}"


def _example_class() -> Any:
    """Builds the message class of tensorflow/core/example/{example,feature}.proto."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="stpyramid_jax/example.proto", package="stpyramid_jax", syntax="proto3"
    )

    def add(message, name, number, kind, label=field.LABEL_OPTIONAL, type_name=None, oneof=None):
        entry = message.field.add(name=name, number=number, type=kind, label=label)
        if type_name:
            entry.type_name = f".stpyramid_jax.{type_name}"
        if oneof is not None:
            entry.oneof_index = oneof

    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        add(file.message_type.add(name=name), "value", 1, kind, field.LABEL_REPEATED)

    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    add(feature, "bytes_list", 1, field.TYPE_MESSAGE, type_name="BytesList", oneof=0)
    add(feature, "float_list", 2, field.TYPE_MESSAGE, type_name="FloatList", oneof=0)
    add(feature, "int64_list", 3, field.TYPE_MESSAGE, type_name="Int64List", oneof=0)

    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, type_name="Feature")
    add(
        features,
        "feature",
        1,
        field.TYPE_MESSAGE,
        field.LABEL_REPEATED,
        type_name="Features.FeatureEntry",
    )
    example = file.message_type.add(name="Example")
    add(example, "features", 1, field.TYPE_MESSAGE, type_name="Features")

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("stpyramid_jax.Example"))


_Example = _example_class()


def encode_example(features: Mapping[str, bytes | int]) -> bytes:
    """Serialises one bytes or int value per name; equal features give equal bytes."""
    example = _Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def decode_example(payload: bytes) -> dict[str, bytes | int]:
    """Inverse of `encode_example`."""
    features = _Example.FromString(payload).features.feature
    return {
        name: (value.bytes_list if value.HasField("bytes_list") else value.int64_list).value[0]
        for name, value in features.items()
    }


# Protobuf makes the classes of nested messages when they are first used. That is done here, in one
# thread: a reader's threads were once seen to crash in their first records.
decode_example(encode_example({"image": b"", "index": 0}))


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def encode_record(payload: bytes) -> bytes:
    """Frames a payload as one TFRecord."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (
            length,
            struct.pack("<I", _masked_crc(length)),
            payload,
            struct.pack("<I", _masked_crc(payload)),
        )
    )


def read_record(file: int, offset: int, end: int, where: str) -> bytes:
    """Reads and checks the record that fills bytes `offset..end` of an open file descriptor.

    Raises:
      ValueError: the file is shorter than that or a checksum disagrees; the message starts with
        `where` (file and record, for people) and holds the offset.
    """
    data = os.pread(file, end - offset, offset)
    size = end - offset - _LENGTH_BYTES - _FOOTER_BYTES
    if len(data) != end - offset:
        raise ValueError(
            f"{where}: truncated at offset {offset}: {len(data)} of {end - offset} bytes; "
            "prepare the data set again"
        )
    length, length_crc = struct.unpack_from("<QI", data)
    payload = data[_LENGTH_BYTES:-_FOOTER_BYTES]
    (payload_crc,) = struct.unpack_from("<I", data, _LENGTH_BYTES + size)
    if length != size or length_crc != _masked_crc(data[:8]) or payload_crc != _masked_crc(payload):
        raise ValueError(
            f"{where}: checksum mismatch at offset {offset}; prepare the data set again"
        )
    return payload
