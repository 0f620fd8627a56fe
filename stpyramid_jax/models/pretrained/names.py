"""Whose names and layouts a file has, and what they are here: one description for both ways.

Here a convolution is `<layer>/kernel` [h, w, in, out] and `<layer>/bias`, a dense layer
`<layer>/kernel` [in, out] and `<layer>/bias`, a norm `<layer>/scale`, `bias`, `mean` and `var`, and
the first convolution takes RGB. Changes of layout are exact.

Sources: torchvision's `resnet.py`, `vgg.py`, `squeezenet.py`; timm's `vgg.py`; `bninception.py` of
Cadene's pretrained-models.pytorch; `models.py` of yjxiong/tsn-pytorch; for Caffe the prototxts of
yjxiong/temporal-segment-networks and `bn_layer.cpp` of yjxiong/caffe, whose norm keeps scale, bias,
mean and variance, in that order (from April 2016 on; before, the last was the inverse of the
standard deviation, which cannot be told from the file).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from stpyramid_jax.models.backbones import (
    CAFFE,
    IMAGENET,
    TSN,
    Units,
    bn_inception,
    resnet,
    vgg,
)


class Layer(NamedTuple):
    """A layer by its path here and its name in a file.

    Attributes:
      kind: `conv`; `norm`; `dense`; `flat`, a dense layer over the 7 x 7 map [C, 7, 7] (here
        [7, 7, C]) as a row; `map`, the same as a 7 x 7 convolution; `pixel`, a dense layer as a
        1 x 1 convolution.
    """

    ours: str
    theirs: str
    kind: str


class Dialect(NamedTuple):
    """How a kind of file writes one backbone.

    Attributes:
      backbone: a name of `BACKBONES`.
      source: whose names these are.
      layers: all, the head with them.
      suffixes: for `norm` and for all other layers (`weights`), what follows the layer's name in
        the names of its arrays, and their fields here.
      units: what these weights expect; RGB order.
      bgr: whether the first kernel takes channels in BGR order.
      ours: whether arrays have our layout already.
    """

    backbone: str
    source: str
    layers: tuple[Layer, ...]
    suffixes: Mapping[str, Mapping[str, str]]
    units: Units
    bgr: bool = False
    ours: bool = False


_TORCH = {
    "weights": {".weight": "kernel", ".bias": "bias"},
    "norm": {
        ".weight": "scale",
        ".bias": "bias",
        ".running_mean": "mean",
        ".running_var": "var",
    },
}
_CAFFE_BLOBS = {
    "weights": {":0": "kernel", ":1": "bias"},
    "norm": {":0": "scale", ":1": "bias", ":2": "mean", ":3": "var"},
}
_OURS = {"weights": {"/kernel": "kernel", "/bias": "bias"}}

STEPS = ".num_batches_tracked"
"""Suffix of PyTorch's count of a norm's training steps, of which there is nothing here."""


def _resnet(depth: int) -> Iterator[Layer]:
    yield Layer("conv1", "conv1", "conv")
    yield Layer("norm1", "bn1", "norm")
    bottleneck = depth >= 50
    for stage, count in enumerate(resnet.BLOCKS[depth], 1):
        for block in range(count):
            ours, theirs = f"layer{stage}_{block}", f"layer{stage}.{block}"
            for i in range(1, 4 if bottleneck else 3):
                yield Layer(f"{ours}/conv{i}", f"{theirs}.conv{i}", "conv")
                yield Layer(f"{ours}/norm{i}", f"{theirs}.bn{i}", "norm")
            if block == 0 and (bottleneck or stage > 1):
                yield Layer(f"{ours}/downsample_conv", f"{theirs}.downsample.0", "conv")
                yield Layer(f"{ours}/norm_downsample", f"{theirs}.downsample.1", "norm")
    yield Layer("fc", "fc", "dense")


def _vgg_features(batch_norm: bool) -> Iterator[Layer]:
    """torchvision numbers convolutions, norms, ReLUs and pools of `features` alike."""
    index = 0
    for stage, (_, count) in enumerate(vgg.STAGES, 1):
        for i in range(1, count + 1):
            yield Layer(f"conv{stage}_{i}", f"features.{index}", "conv")
            if batch_norm:
                yield Layer(f"norm{stage}_{i}", f"features.{index + 1}", "norm")
            index += 3 if batch_norm else 2
        index += 1


_VGG_HEADS = {
    "torchvision": (
        Layer("fc6", "classifier.0", "flat"),
        Layer("fc7", "classifier.3", "dense"),
        Layer("fc8", "classifier.6", "dense"),
    ),
    "timm": (
        Layer("fc6", "pre_logits.fc1", "map"),
        Layer("fc7", "pre_logits.fc2", "pixel"),
        Layer("fc8", "head.fc", "dense"),
    ),
    "Caffe": (
        Layer("fc6", "fc6", "flat"),
        Layer("fc7", "fc7", "dense"),
        Layer("fc8", "fc8", "dense"),
    ),
}


def _squeezenet() -> Iterator[Layer]:
    yield Layer("conv1", "features.0", "conv")
    for number, index in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True):
        for part in ("squeeze", "expand1x1", "expand3x3"):
            ours = "squeeze1x1" if part == "squeeze" else part
            yield Layer(f"fire{number}/{ours}", f"features.{index}.{part}", "conv")
    yield Layer("conv10", "classifier.1", "conv")


def _bn_inception(head: str, separator: str) -> Iterator[Layer]:
    """Caffe separates block and layer by `/`, the PyTorch versions by `_`."""

    def pair(ours, theirs, number):
        theirs = theirs.replace("/", separator)
        yield Layer(ours.format("conv", number), theirs, "conv")
        yield Layer(ours.format("norm", number), f"{theirs}_bn", "norm")

    yield from pair("{}{}", "conv1/7x7_s2", "1")
    yield from pair("{}{}", "conv2/3x3_reduce", "2_reduce")
    yield from pair("{}{}", "conv2/3x3", "2")
    for block, (one, *_) in bn_inception.BLOCKS.items():
        parts = ["3x3_reduce", "3x3", "double_3x3_reduce", "double_3x3_1", "double_3x3_2"]
        if one is not None:  # else the block halves the map and passes its pool on as it is
            parts = ["1x1", *parts, "pool_proj"]
        for part in parts:
            yield from pair(f"inception_{block}/{{}}_{{}}", f"inception_{block}/{part}", part)
    yield Layer("fc", head, "dense")


def _dialects() -> Iterator[Dialect]:
    for depth in resnet.BLOCKS:
        layers = tuple(_resnet(depth))
        yield Dialect(f"resnet{depth}", "torchvision", layers, _TORCH, IMAGENET)
    for backbone in ("vgg16", "vgg16_bn"):
        features = tuple(_vgg_features(backbone == "vgg16_bn"))
        for source in ("torchvision", "timm"):
            layers = (*features, *_VGG_HEADS[source])
            yield Dialect(backbone, source, layers, _TORCH, IMAGENET)
    plain = tuple(Layer(layer.ours, layer.ours, "conv") for layer in _vgg_features(False))
    layers = (*plain, *_VGG_HEADS["Caffe"])
    yield Dialect("vgg16", "Caffe", layers, _CAFFE_BLOBS, CAFFE, bgr=True)
    layers = tuple(_squeezenet())
    yield Dialect("squeezenet", "torchvision", layers, _TORCH, IMAGENET)
    layers = tuple(Layer(layer.ours, layer.ours, layer.kind) for layer in layers)
    yield Dialect("squeezenet", "NumPy", layers, _OURS, CAFFE, bgr=True, ours=True)
    # Cadene's port names 128 as the mean of red; the network it was ported from, like all of TSN's,
    # was trained with 123 (prototxts of TSN), so that is what all of these weights expect.
    for head in ("last_linear", "fc", "new_fc"):
        layers = tuple(_bn_inception(head, "_"))
        yield Dialect("bn_inception", "Cadene", layers, _TORCH, TSN, bgr=True)
    for head in ("fc-action", "fc"):
        layers = tuple(_bn_inception(head, "/"))
        yield Dialect("bn_inception", "Caffe", layers, _CAFFE_BLOBS, TSN, bgr=True)


DIALECTS = tuple(_dialects())
"""Of each backbone, the first is the one that it is exported in."""
