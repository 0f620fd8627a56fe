"""The backbones beside PyTorch's: images a second of 224 x 224, up to the last map.

    python benchmarks/backbones.py --json=backbones.json

Both have the same weights, which PyTorch draws, and results and gradients are compared before
anything is timed. PyTorch runs torchvision's networks with `channels_last`, eager and, without
--quick, by `torch.compile`: in evaluation under `inference_mode`, in training with batch statistics
and the gradients of all parameters. It has no BN-Inception: the definition that the tests hold this
project's against stands in, which is `tests/models/torch_bn_inception.py`.
"""

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import comparison
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from comparison import Row

from stpyramid_jax.models.backbones import BACKBONES
from stpyramid_jax.models.pretrained import load_weights, weights_of
from stpyramid_jax.performance import compiler_options

PACKAGES = ("jax", "jaxlib", "flax", "torch", "torchvision", "numpy")
NAMES = tuple(name for name in BACKBONES if name != "convnet")  # that one is this project's own
QUICK = ("squeezenet", "resnet18", "resnet50", "vgg16", "bn_inception")
TRAINED = ("squeezenet", "resnet50", "bn_inception")
SIDE = 224
# Parts of the mean size. Through fifty norms of batch statistics the first layers' gradients change
# by hundredths when the images change in their last bit: norms amplify, and ReLUs flip.
TOLERANCE, GRADIENTS_TOLERANCE = 1e-2, 1e-1


class Case(NamedTuple):
    """A backbone, whether it is trained or evaluated, and on how many images."""

    backbone: str
    train: bool
    batch: int

    def __str__(self):
        return f"{self.backbone}, batch {self.batch}, forward" + "+backward" * self.train


def cases(quick: bool) -> Iterator[Case]:
    """Evaluation of all backbones, then training of some."""
    for name in QUICK if quick else NAMES:
        yield Case(name, False, 4 if quick else 8)
    for name in () if quick else TRAINED:
        yield Case(name, True, 8)


def network(backbone: str, train: bool) -> tuple[Any, Callable[[Any], Any]]:
    """PyTorch's model on its device and what gives its last map."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
    import torch
    from torch_bn_inception import BNInception
    from torchvision_models import models

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # as XLA does by default; without effect on CPU
    torch.backends.cudnn.benchmark = True
    if backbone == "bn_inception":
        model = BNInception(1)
        trunk = model.features
    else:
        model = getattr(models, {"squeezenet": "squeezenet1_1"}.get(backbone, backbone))()
        if backbone.startswith("resnet"):
            trunk = torch.nn.Sequential(*list(model.children())[:-2])
        else:  # VGG's last pool is behind the map
            trunk = model.features[:-1] if backbone.startswith("vgg") else model.features
    for head in ("fc", "classifier", "last_linear"):
        if hasattr(model, head):
            delattr(model, head)
    for kernel in (parameter for parameter in model.parameters() if parameter.ndim > 1):
        torch.nn.init.kaiming_normal_(kernel, nonlinearity="relu")
    return model.train(train), trunk


def in_our_names(arrays: Mapping[str, Any], backbone: str) -> dict[str, np.ndarray]:
    """Tensors under PyTorch's names as arrays by our paths, by the way that files of weights go."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({name: value.detach().cpu().contiguous() for name, value in arrays.items()}, path)
        return load_weights(path, backbone).arrays


def filled(module: nn.Module, arrays: Mapping[str, np.ndarray]) -> Any:
    """The module's variables from arrays by path."""
    image = jnp.zeros((1, SIDE, SIDE, 3))
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(arrays["/".join(key.key for key in path[1:])]), shapes
    )


def ours(case: Case, arrays: Mapping[str, np.ndarray], images: np.ndarray) -> Callable[[], Any]:
    """The jitted step: the last map, and in training its parameters' gradients."""
    module = BACKBONES[case.backbone].module()
    variables, batch = filled(module, arrays), jnp.asarray(images)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def step(variables, images):
        if not case.train:
            return module.apply(variables, images), {}, {}

        def forward(params):
            given = {**variables, "params": params}
            return module.apply(given, images, True, mutable=["batch_stats"])

        result, pull, statistics = jax.vjp(forward, variables["params"], has_aux=True)
        return result, pull(2 * result)[0], statistics  # gradients of the sum of squares

    return lambda: jax.block_until_ready(step(variables, batch))


def theirs(case: Case, model: Any, trunk: Any, images: np.ndarray, compiled: bool):
    """The step in PyTorch, its gradients by name."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device, memory_format=torch.channels_last)
    # The public BN-Inception takes BGR; the translation of its weights turns the first kernel.
    order = [2, 1, 0] if case.backbone == "bn_inception" else [0, 1, 2]
    batch = torch.tensor(images[..., order], device=device).permute(0, 3, 1, 2)  # channels last
    forward = torch.compile(trunk, dynamic=False) if compiled else trunk
    parameters = dict(model.named_parameters())

    def run():
        with torch.inference_mode(not case.train):
            result, gradients = forward(batch), {}
            if case.train:
                values = torch.autograd.grad(result, [*parameters.values()], 2 * result.detach())
                gradients = dict(zip(parameters, values, strict=True))
        if device == "cuda":
            torch.cuda.synchronize()
        return result, gradients

    return run


def compared(case: Case, chosen: argparse.Namespace) -> Iterator[Row]:
    """The case beside eager PyTorch, and without --quick beside the compiled one too."""
    model, trunk = network(case.backbone, case.train)
    shape = (case.batch, SIDE, SIDE, 3)
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    run = ours(case, in_our_names(model.state_dict(), case.backbone), images)
    peers = {
        f"PyTorch {'compiled' if compiled else 'eager'}": theirs(
            case, model, trunk, images, compiled
        )
        for compiled in ((False,) if chosen.quick else (False, True))
    }
    for name in comparison.ranked(peers, 1):
        check(f"{case}, {name}", case.backbone, run(), peers[name]())
        here, there = comparison.in_turn([run, peers[name]], chosen.repetitions)
        yield Row(str(case), name, case.batch / here, case.batch / there, "images/s")


def check(case: str, backbone: str, ours: Any, theirs: Any) -> None:
    """Raises ValueError where the last maps or the gradients differ."""
    (result, gradients, _), (expected, by_name) = ours, theirs
    expected = expected.detach().cpu().permute(0, 2, 3, 1).numpy()
    comparison.check_equal(case, [np.asarray(result)], [expected], TOLERANCE)
    if by_name:
        mine = weights_of({"params": gradients}, "").arrays
        given = in_our_names(by_name, backbone)
        paths = sorted(mine | given)
        comparison.check_equal(
            f"{case}, gradients", map(mine.get, paths), map(given.get, paths), GRADIENTS_TOLERANCE
        )


def main() -> None:
    chosen = comparison.options(__doc__)
    comparison.require("torch", "torchvision", "safetensors", "pytest")
    results = (row for case in cases(chosen.quick) for row in compared(case, chosen))
    rows = list(comparison.tabulated(results, PACKAGES))
    if chosen.json:
        comparison.write(chosen.json, rows, PACKAGES)


if __name__ == "__main__":
    main()
