"""Variables, state dicts and Caffe files to test with."""

import functools
import struct

import jax
import jax.numpy as jnp
import numpy as np

from stpyramid_jax.models.backbones import BACKBONES


@functools.cache
def shapes_of(backbone, num_classes=None, channels=3):
    """{collection: tree of shapes} of a backbone, without computing anything."""
    head = {} if num_classes is None else {"num_classes": num_classes}
    module = BACKBONES[backbone].module(**head)
    images = jax.ShapeDtypeStruct((1, 224, 224, channels), jnp.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)


def variables_of(backbone, num_classes=None, channels=3, seed=0):
    """Random positive float32 variables of a backbone; every value occurs about once."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: np.abs(rng.standard_normal(leaf.shape, np.float32)),
        dict(shapes_of(backbone, num_classes, channels)),
    )


def small_of(backbone, num_classes=1000):
    """The arrays of a backbone by path, with few channels: what they are called is what matters."""
    rng = np.random.default_rng(0)
    arrays = {}
    for path, leaf in flat(dict(shapes_of(backbone, num_classes))).items():
        shape = tuple(min(size, 3) for size in leaf.shape)
        if len(shape) == 4:
            shape = (*leaf.shape[:2], *shape[2:])
        elif path == "fc6/kernel":
            shape = (7 * 7 * 2, 3)
        arrays[path] = np.abs(rng.standard_normal(shape, np.float32))
    return arrays


def flat(tree):
    """{"conv1/kernel": ...} of both collections."""
    return {
        "/".join(key.key for key in path[1:]): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def varint(number):
    """An integer as protobuf writes it, seven bits a byte."""
    number &= (1 << 64) - 1  # negative ones in two's complement
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number, content):
    """A field of protobuf: an integer, or bytes with their length."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array, legacy=False, double=False):
    """A BlobProto of caffe.proto, written by hand from its field numbers."""
    values = array.astype("<f8" if double else "<f4").tobytes()
    content = field(8 if double else 5, values)
    if legacy:
        sizes = (1,) * (4 - array.ndim) + array.shape
        return b"".join(field(i, size) for i, size in enumerate(sizes, 1)) + content
    return content + field(7, field(1, b"".join(varint(size) for size in array.shape)))


def caffemodel(layers, v1=False, **options):
    """A NetParameter of {layer: [array, ...]}, with fields that a reader of weights skips."""
    content = field(1, b"a net")
    for name, arrays in layers.items():
        blobs = [blob(array, **options) for array in arrays]
        if v1:  # name 4, type 5 (4 is a convolution), blobs 6, bottom 2
            parts = [field(2, b"data"), *(field(6, b) for b in blobs), field(4, name.encode())]
            content += field(2, b"".join([*parts, field(5, 4)]))
        else:  # name 1, type 2, bottom 3, blobs 7, phase 10, loss_weight 5 (a float)
            parts = [field(1, name.encode()), field(2, b"Convolution"), field(3, b"data")]
            loss = varint(5 << 3 | 5) + struct.pack("<f", 1.0)
            content += field(100, b"".join([*parts, loss, *(field(7, b) for b in blobs)]))
    return content
