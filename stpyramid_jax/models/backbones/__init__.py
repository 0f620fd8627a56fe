"""The backbones by name. Each maps images [N, H, W, C] of any C to its last map [N, h, w, D].

A backbone is a module of this folder and a line of `BACKBONES`; docs/backbones.md adds one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import flax.linen as nn

from stpyramid_jax.models.backbones.bn_inception import BNInception
from stpyramid_jax.models.backbones.convnet import ConvNet
from stpyramid_jax.models.backbones.resnet import ResNet
from stpyramid_jax.models.backbones.squeezenet import SqueezeNet
from stpyramid_jax.models.backbones.vgg import VGG


@dataclasses.dataclass(frozen=True)
class Units:
    """What weights expect of RGB bytes 0..255: `(bytes - mean) * scale`, channels in RGB order."""

    mean: tuple[float, float, float]
    scale: tuple[float, float, float]


# torchvision's and timm's.
IMAGENET = Units(
    (255 * 0.485, 255 * 0.456, 255 * 0.406),
    (1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)),
)
# Those of Caffe's VGG, and of nets that were converted from Caffe.
CAFFE = Units((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
# Those of TSN's BN-Inception.
TSN = Units((123.0, 117.0, 104.0), (1.0, 1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A backbone of the table.

    Attributes:
      module: makes the Flax module. `module(...)(x, train=False)` takes images [N, H, W, C] that
        are in its units already, C = 3, 2L or 3L. It may be given
          num_classes: None for the last map [N, h, w, D]; else class scores [N, K] by the head
            that the net has for ImageNet (`ConvNet` has none);
          partial_bn: in training the first norm alone uses the batch's statistics, all others
            their running averages, which stay as they are;
          dtype: of the computation, such as bfloat16; parameters and statistics stay float32;
          remat: blocks are computed again in the backward pass instead of kept; the parameters
            are the same.
      units: of a network that starts fresh; weights that are loaded bring their own.
    """

    module: Callable[..., nn.Module]
    units: Units


BACKBONES: Mapping[str, Backbone] = {
    "bn_inception": Backbone(BNInception, TSN),
    "vgg16": Backbone(VGG, IMAGENET),
    "vgg16_bn": Backbone(functools.partial(VGG, batch_norm=True), IMAGENET),
    "resnet18": Backbone(functools.partial(ResNet, 18), IMAGENET),
    "resnet34": Backbone(functools.partial(ResNet, 34), IMAGENET),
    "resnet50": Backbone(functools.partial(ResNet, 50), IMAGENET),
    "resnet101": Backbone(functools.partial(ResNet, 101), IMAGENET),
    "resnet152": Backbone(functools.partial(ResNet, 152), IMAGENET),
    "squeezenet": Backbone(SqueezeNet, IMAGENET),
    "convnet": Backbone(ConvNet, Units((127.5, 127.5, 127.5), (1 / 64, 1 / 64, 1 / 64))),
}
