"""Every layer of every backbone against PyTorch, under random weights and random statistics.

Inputs and outputs of all convolutions, norms, dense layers and blocks are compared, so that what
lies between them (ReLU, pools, sums, concatenations) is compared as well. An error is the largest
difference within a layer relative to the root mean square of PyTorch's values there.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stpyramid_jax.models.backbones import BACKBONES
from stpyramid_jax.models.backbones.vgg import adaptive_average_pool

torch = pytest.importorskip("torch")

from tests.models.test_backbones import added_backbone  # noqa: E402 (after the skip without torch)
from tests.models.torch_bn_inception import BNInception  # noqa: E402 (needs torch)
from tests.models.torchvision_models import models  # noqa: E402 (needs torch)

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On images this small PyTorch's threads wait for each other twenty times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def resnet_name(path):
    """`layer1_0/norm_downsample` -> `layer1.0.downsample.1`."""
    special = {"downsample_conv": "downsample.0", "norm_downsample": "downsample.1"}
    parts = [special.get(part, part.replace("norm", "bn")) for part in path]
    return ".".join(parts).replace("_", ".")


def vgg_name(path, norms):
    if path[0].startswith("fc"):
        return f"classifier.{ {'fc6': 0, 'fc7': 3, 'fc8': 6}[path[0]] }"
    kind, stage, number = path[0].replace("conv", "conv_").replace("norm", "norm_").split("_")
    before = [0, 2, 4, 7, 10][int(stage) - 1] + int(number) - 1
    index = before * (3 if norms else 2) + int(stage) - 1
    return f"features.{index + (kind == 'norm')}"


def squeezenet_name(path):
    layers = {"conv1": "features.0", "conv10": "classifier.1"}
    layers |= {f"fire{n}": f"features.{n + 1 + (n > 3) + (n > 5)}" for n in range(2, 10)}
    inside = [part.replace("squeeze1x1", "squeeze") for part in path[1:]]
    return ".".join([layers[path[0]], *inside])


def bn_inception_name(path):
    special = {"conv1": "conv1_7x7_s2", "norm1": "conv1_7x7_s2_bn", "fc": "last_linear"}
    if path[0] in special:
        return special[path[0]]
    *block, layer = path
    kind, which = layer[:4], layer[4:]
    if not block:
        which = f"conv2_3x3{which.removeprefix('2')}"
    return f"{'_'.join(block)}{which}{'_bn' if kind == 'norm' else ''}"


@dataclasses.dataclass(frozen=True)
class Peer:
    """The PyTorch definition of a backbone.

    `build` takes the number of classes, `trunk` a model and gives what ends in the tap, `name_of`
    translates a path of ours, and `first` names the convolution that sees the image.
    """

    build: Callable
    trunk: Callable
    name_of: Callable
    first: str


def torchvision_peer(name, trunk, name_of, first):
    return Peer(lambda k: getattr(models, name)(num_classes=k), trunk, name_of, first)


def resnet_trunk(model):
    return torch.nn.Sequential(*list(model.children())[:8])


PEERS = {
    f"resnet{depth}": torchvision_peer(f"resnet{depth}", resnet_trunk, resnet_name, "conv1")
    for depth in (18, 34, 50, 101, 152)
} | {
    "vgg16": torchvision_peer(
        "vgg16", lambda m: m.features[:-1], lambda p: vgg_name(p, False), "features.0"
    ),
    "vgg16_bn": torchvision_peer(
        "vgg16_bn", lambda m: m.features[:-1], lambda p: vgg_name(p, True), "features.0"
    ),
    "squeezenet": torchvision_peer(
        "squeezenet1_1", lambda m: m.features, squeezenet_name, "features.0"
    ),
    "bn_inception": Peer(BNInception, lambda m: m.features, bn_inception_name, "conv1_7x7_s2"),
}


def randomize(model, seed=0):
    """Weights and statistics of a sane size, none of them at the value of a fresh network."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.ndim > 1:
            value.uniform_(-1, 1, generator=generator).mul_((6 / value[0].numel()) ** 0.5)
        elif name.endswith("running_var") or "norm" in name or value.ndim == 1:
            value.uniform_(0.5, 1.5, generator=generator)
        if name.endswith(("bias", "running_mean")):
            value.sub_(1).mul_(0.5)


def peer_of(name, channels, num_classes=None):
    """(model, trunk or model) with random weights; only what is called gets memory."""
    peer = PEERS[name]
    with torch.device("meta"):
        model = peer.build(num_classes or 1)
        first = model.get_submodule(peer.first)
        first.weight = torch.nn.Parameter(first.weight[:, :1].expand(-1, channels, -1, -1))
        first.in_channels = channels
        if num_classes is None:
            for head in ("fc", "classifier", "last_linear"):
                if hasattr(model, head):
                    delattr(model, head)
    model.to_empty(device="cpu")
    randomize(model)
    return model, (peer.trunk(model) if num_classes is None else model)


def translate(name, model, module, image):
    """The variables of `module` from the state of `model`; each array is used exactly once."""
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    leaves = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    leaves |= {"mean": "running_mean", "var": "running_var"}

    def fill(path, shape):
        *layer, leaf = (key.key for key in path[1:])
        value = state.pop(f"{PEERS[name].name_of(layer)}.{leaves[leaf]}")
        if layer[-1] == "fc6" and leaf == "kernel":  # of the map's c, h, w in PyTorch
            value = value.reshape(-1, 512, 7, 7).transpose(2, 3, 1, 0).reshape(shape.shape)
        elif value.ndim > 1:
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        assert value.shape == shape.shape
        return jnp.asarray(value)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    assert all(key.endswith("num_batches_tracked") for key in state)
    return variables


@functools.partial(jax.jit, static_argnames=("module", "train"))
def run_ours(module, variables, image, train=False):
    """({path: (input, output)} of all modules, output, updated collections)."""
    seen = {}

    def record(following, args, kwargs, context):
        output = following(*args, **kwargs)
        if context.method_name == "__call__" and context.module.path:
            seen[context.module.path] = (args[0], output)
        return output

    with nn.intercept_methods(record):
        output, updates = module.apply(variables, image, train, mutable=["batch_stats"])
    return seen, output, updates


def run_theirs(model, forward, image):
    """({name: (input, output)} of all modules, output)."""
    seen = {}

    def record(name):
        # Copies, since what follows may work in place.
        return lambda _, inputs, output: seen.update({name: (inputs[0].clone(), output.clone())})

    hooks = [module.register_forward_hook(record(name)) for name, module in model.named_modules()]
    with torch.no_grad():
        output = forward(torch.from_numpy(np.asarray(image).transpose(0, 3, 1, 2).copy()))
    for hook in hooks:
        hook.remove()
    return seen, output


def error(ours, theirs):
    theirs = theirs.numpy()
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.sqrt(np.square(theirs).mean())


def image_of(channels, size, batch=2):
    rng = np.random.default_rng(channels)
    return jnp.asarray(rng.normal(size=(batch, *size, channels)), jnp.float32)


def compare(name, ours, theirs, tolerance=TOLERANCE):
    """Every convolution, norm, dense layer and block within the tolerance."""
    errors = {}
    for path, pair in ours.items():
        peer = PEERS[name].name_of(path)
        if peer in theirs:
            errors[path] = max(error(*both) for both in zip(pair, theirs[peer], strict=True))
        else:
            assert path[-1].startswith(("inception", "Dropout")), path
    worst = max(errors, key=errors.get)
    assert errors[worst] < tolerance, f"{'/'.join(worst)}: {errors[worst]}"


# The channels of flow with one ResNet of each kind of block: they change the first kernel only.
CASES = [
    ("bn_inception", 3, (64, 96)),
    ("bn_inception", 20, (75, 45)),  # odd maps before the blocks that halve
    ("resnet18", 3, (64, 64)),
    ("resnet18", 20, (47, 75)),
    ("resnet34", 3, (33, 64)),
    ("resnet50", 3, (64, 64)),
    ("resnet50", 20, (47, 75)),
    ("resnet101", 3, (64, 64)),
    ("resnet152", 3, (64, 64)),
    ("squeezenet", 3, (62, 64)),
    ("squeezenet", 20, (47, 75)),
    ("vgg16", 3, (32, 48)),
    ("vgg16", 20, (35, 47)),
    ("vgg16_bn", 3, (32, 48)),
    ("vgg16_bn", 20, (35, 47)),
]


@pytest.mark.parametrize(("name", "channels", "size"), CASES)
def test_every_layer_is_pytorchs(name, channels, size):
    model, trunk = peer_of(name, channels)
    module, image = BACKBONES[name].module(), image_of(channels, size)
    model.eval()
    theirs, expected = run_theirs(model, trunk, image)
    ours, tap, _ = run_ours(module, translate(name, model, module, image), image)
    compare(name, ours, theirs)
    assert error(tap, expected) < TOLERANCE
    assert tap.min() == 0  # behind a ReLU


@pytest.mark.parametrize(
    ("name", "partial_bn"),
    [("bn_inception", False), ("vgg16_bn", False), ("resnet18", False), ("resnet18", True)],
)
def test_training_normalizes_and_averages_as_pytorch(name, partial_bn):
    """In float64: by batch statistics float32 rounds off 2e-4 in BN-Inception, in PyTorch too."""
    model, trunk = peer_of(name, 3)
    model.double().train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for frozen in norms[1:] if partial_bn else []:
        frozen.eval()
    with jax.enable_x64(True):
        module = BACKBONES[name].module(partial_bn=partial_bn)
        image = image_of(3, (64, 64), batch=4).astype(jnp.float64)
        variables = translate(name, model, module, image)
        before = jax.tree.map(np.array, variables["batch_stats"])
        theirs, expected = run_theirs(model, trunk, image)
        ours, tap, updates = run_ours(module, variables, image, train=True)
    compare(name, ours, theirs, 1e-9)
    assert error(tap, expected) < 1e-9

    def check(path, old, new):
        *layer, statistic = (key.key for key in path)
        peer = model.get_submodule(PEERS[name].name_of(layer))
        expected = getattr(peer, f"running_{statistic}").numpy()
        if not peer.training:
            np.testing.assert_array_equal(new, old)
        elif statistic == "var":
            # PyTorch averages variances over n - 1, this project those over n, which normalise.
            positions = ours[tuple(layer)][1].size / old.size
            expected = 0.9 * old + (expected - 0.9 * old) * (positions - 1) / positions
        np.testing.assert_allclose(new, expected, rtol=1e-9, atol=1e-9)

    jax.tree_util.tree_map_with_path(check, before, updates["batch_stats"])


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("bn_inception", (64, 96)),
        ("resnet18", (64, 33)),
        ("squeezenet", (47, 64)),
        # A map of 2 x 3 behind pool5, brought to 7 x 7 for fc6 with its 400 MB.
        ("vgg16", (64, 96)),
    ],
)
def test_class_scores_are_pytorchs(name, size):
    model, forward = peer_of(name, 3, num_classes=5)
    module, image = BACKBONES[name].module(num_classes=5), image_of(3, size)
    model.eval()
    _, expected = run_theirs(model, forward, image)
    variables = translate(name, model, module, image)
    scores = jax.jit(module.apply)(variables, image)
    assert scores.shape == (2, 5)
    assert error(scores, expected) < TOLERANCE


@pytest.mark.parametrize("size", [(7, 7), (1, 3), (10, 7), (14, 13)])
def test_adaptive_pooling_is_pytorchs(size):
    x = image_of(5, size)
    expected = torch.nn.AdaptiveAvgPool2d(7)(torch.from_numpy(np.array(x)).permute(0, 3, 1, 2))
    assert error(adaptive_average_pool(x, 7), expected) < 1e-6


def test_the_backbone_added_by_the_documents_is_torchvisions():
    module, image = added_backbone().module(), image_of(3, (96, 80))
    variables = jax.jit(module.init)(jax.random.key(0), image)
    theirs = models.alexnet().features[:-1]
    with torch.no_grad():
        for number, index in enumerate((0, 3, 6, 8, 10), start=1):
            kernel = np.array(variables["params"][f"conv{number}"]["kernel"])
            theirs[index].weight.copy_(torch.from_numpy(kernel).permute(3, 2, 0, 1))
            theirs[index].bias.zero_()
        expected = theirs(torch.from_numpy(np.array(image)).permute(0, 3, 1, 2))
    assert error(jax.jit(module.apply)(variables, image), expected) < TOLERANCE
