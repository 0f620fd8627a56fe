"""A training step beside the same network in PyTorch: samples a second.

    python benchmarks/train.py --quick
    python benchmarks/train.py --json=train.json

A step is all that lies between a batch of bytes on the device and new parameters: forward,
backward, clipping and update, here the metrics too; without dropout. Both sides have the same
weights, and losses and updates are compared before anything is timed. PyTorch runs the networks of
`torch_pyramid.py`, eager and, without --quick, by `torch.compile`, with the form of the count
sketch that is the fastest in a trial. Where the device's peak is known, a row holds against it what
products and convolutions of the step amount to.

Without --quick, one batch is also divided over 2, 4 and 8 devices that share the cores of the CPU,
beside one device that has them all: what dividing costs, since more devices are no more cores.
"""

import argparse
import contextlib
import functools
import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import comparison
import jax
import numpy as np
from comparison import Row

from stpyramid_jax.experiment import Experiment, build_experiment, default_config
from stpyramid_jax.models.pretrained import weights_of
from stpyramid_jax.models.pyramid import create_model, named_model
from stpyramid_jax.performance import compiler_options, peak_flops, step_flops
from stpyramid_jax.training.optimizer import make_optimizer, schedule
from stpyramid_jax.training.sharding import make_mesh, replicated, shard_batch
from stpyramid_jax.training.state import TrainState, init_state, input_shapes
from stpyramid_jax.training.step import train_step

PACKAGES = ("jax", "jaxlib", "flax", "torch", "torchvision", "numpy")
DEVICES = (1, 2, 4, 8)
CLASSES = 101
# For what runs once: the compiler need not try hard.
ONCE = {"xla_backend_optimization_level": 0}
# Parts of the mean size. As in `backbones.py`, norms of batch statistics amplify what is rounded.
TOLERANCE, UPDATES_TOLERANCE = 1e-3, 1e-1


class Case(NamedTuple):
    """A row of the ablation, and on what it is trained."""

    model: str
    backbone: str
    side: int = 112
    batch: int = 16
    dtype: str = "float32"
    normalize: bool = True

    def __str__(self):
        usual = self._field_defaults["dtype"]
        dtype = "" if self.dtype == usual else f", {self.dtype}"
        return f"{self.model}, {self.backbone}, {self.side} px, batch {self.batch}{dtype}"


def cases(quick: bool) -> Iterator[Case]:
    """Models A and D with each backbone, as the device takes them."""
    if jax.default_backend() == "cpu":
        given = [Case(model, name) for model in "DA" for name in ("squeezenet", "resnet18")]
    else:
        names = ("bn_inception", "resnet50")
        given = [Case(model, name, 224, 128, "bfloat16") for model in "DA" for name in names]
    yield from given[:1] if quick else given


def experiment(case: Case) -> Experiment:
    """A run of the case; whatever else it asks for stays as it is by default."""
    config = default_config()
    config.data.dir = "none is read"
    config.input.crop = case.side
    config.model.update(
        named_model(case.model),
        backbone=case.backbone,
        dtype=case.dtype,
        normalize=case.normalize,
        dropout=0.0,
        head_std=0.03,  # a loss of which all weights have a part
    )
    config.optimizer.learning_rate = 1e-3
    config.training.update(steps=1, batch_size=case.batch)
    return build_experiment(config.to_dict(), CLASSES)


def noise(case: Case) -> dict[str, np.ndarray]:
    """A batch as the pipeline gives it."""
    random, model = np.random.default_rng(0), experiment(case).model
    shapes = input_shapes(model, case.side, case.batch)
    images = {name: random.integers(0, 256, shape, np.uint8) for name, shape in shapes.items()}
    return {**images, "label": random.integers(0, CLASSES, case.batch, np.int32)}


def first_state(case: Case) -> TrainState:
    """Fresh weights, on the host."""
    init = functools.partial(init_state, experiment(case))
    return jax.device_get(jax.jit(init, compiler_options=ONCE)(jax.random.key(0)))


def ours(
    case: Case, state: TrainState, options: Mapping[str, Any] | None = None
) -> tuple[Callable[[], Any], float]:
    """The step, one after the other with every call, which gives (state, metrics); its FLOPs.

    `options` of the compiler stand in for those of the programs.
    """
    chosen, mesh = experiment(case), make_mesh()
    step = functools.partial(
        train_step,
        model=create_model(chosen.model),
        optimizer=make_optimizer(chosen.optimizer),
        rate=schedule(chosen.optimizer, case.batch),
    )
    held = [jax.device_put(state, replicated(mesh))]
    given = shard_batch(noise(case), mesh), jax.device_put(jax.random.key(0), replicated(mesh))
    options = dict(options or compiler_options())
    jitted = jax.jit(step, donate_argnums=0, compiler_options=options)
    with jax.set_mesh(mesh):
        traced = jitted.trace(held[0], *given)
    compiled = traced.lower().compile()

    def run():
        held[0], metrics = compiled(held[0], *given)
        return jax.block_until_ready((held[0], metrics))

    return run, step_flops(traced.jaxpr)


def theirs(case: Case, state: TrainState, form: str, compiled: bool) -> tuple[Any, Callable]:
    """PyTorch's model and its step."""
    import torch_pyramid

    chosen = experiment(case)
    model = torch_pyramid.Pyramid(chosen.model, state.variables, form)
    return model, torch_pyramid.steps(model, chosen.optimizer, noise(case), compiled)


def check_updates(case: Case, state: TrainState) -> None:
    """Raises ValueError where the first step moves a parameter otherwise than PyTorch's.

    In float32 and without the signed square roots, which turn rounding into gradients: near zero
    they are as steep as 5,000. Of such features the gradients are large, and are clipped.
    """
    plain = case._replace(dtype="float32", normalize=False)
    model, peer = theirs(plain, state, "scatter_add_", compiled=False)
    before, loss = model.arrays(), float(peer())
    after, (moved, metrics) = model.arrays(), ours(plain, state, ONCE)[0]()
    check_losses(f"{case}, without square roots", metrics, loss)
    mine, paths = weights_of({"params": moved.params}, "").arrays, sorted(before)
    here, there = ([arrays[path] - before[path] for path in paths] for arrays in (mine, after))
    comparison.check_equal(f"{case}, updates", here, there, UPDATES_TOLERANCE)


def check_losses(case: str, metrics: Mapping[str, jax.Array], loss: float) -> None:
    mine = np.asarray(metrics["loss"], np.float32)
    comparison.check_equal(f"{case}, loss", [mine], [np.float32(loss)], TOLERANCE)


def compared(case: Case, chosen: argparse.Namespace) -> Iterator[Row]:
    """The case beside eager PyTorch, and without --quick beside the compiled one too."""
    import torch_stcb

    state = first_state(case)
    check_updates(case, state)
    run, flops = ours(case, state)
    metrics, rate = run()[1], 0.0
    forms = list(torch_stcb.FORMS)[: 2 if chosen.quick else None]
    forms = forms if case.model == "D" else forms[:1]  # A has no sketch
    trial = {form: theirs(case, state, form, compiled=False)[1] for form in forms}
    form = comparison.ranked(trial, 1)[0]
    for kind in ("eager",) if chosen.quick else ("eager", "compiled"):
        peer = theirs(case, state, form, compiled=kind == "compiled")[1]
        name = f"PyTorch {kind}" + f", {form}" * (case.model == "D")
        check_losses(f"{case}, {name}", metrics, float(peer()))
        here, there = comparison.in_turn([run, peer], chosen.repetitions)
        rate = max(rate, case.batch / here)
        yield Row(str(case), name, case.batch / here, case.batch / there, "samples/s")
    if peak := peak_flops(jax.devices()[0]):
        reached = rate / case.batch * flops
        yield Row(str(case), "peak of the device", reached / 1e12, peak / 1e12, "TFLOP/s")


_STEPS: list[Callable[[], Any]] = []  # of a process that `divided` started


def begin(case: Case, devices: int) -> None:
    """Makes the process one of so many devices of the CPU."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    _STEPS.append(ours(case, first_state(case))[0])


def step() -> None:
    _STEPS[0]()


def divided(case: Case, repetitions: int) -> Iterator[Row]:
    """The batch over several devices beside one, each in a process of its own."""
    start = functools.partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"), begin)
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(start((case, devices))) for devices in DEVICES]
        runs = [lambda pool=pool: pool.submit(step).result() for pool in pools]
        for run in runs:
            run()  # compiles
        one, *more = (case.batch / seconds for seconds in comparison.in_turn(runs, repetitions))
    for devices, rate in zip(DEVICES[1:], more, strict=True):
        yield Row(f"{case}, {devices} devices", "this project, 1 device", rate, one, "samples/s")


def main() -> None:
    chosen = comparison.options(__doc__)
    comparison.require("torch", "torchvision", "safetensors", "pytest")
    parts = [compared(case, chosen) for case in cases(chosen.quick)]
    if not chosen.quick:
        parts.append(divided(Case("D", "squeezenet"), chosen.repetitions))
    rows = list(comparison.tabulated(itertools.chain.from_iterable(parts), PACKAGES))
    if chosen.json:
        comparison.write(chosen.json, rows, PACKAGES)


if __name__ == "__main__":
    main()
