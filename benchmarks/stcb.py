"""The pyramid's fusion beside PyTorch's, at the sizes of model D: milliseconds a step.

    python benchmarks/stcb.py --quick
    python benchmarks/stcb.py --json=stcb.json

Each row is one level as the model runs it, on the same inputs, hashes, signs and parameters, with
the gradients of all inputs and parameters or forward alone. Results and gradients are compared
before anything is timed. PyTorch is written in several forms (`torch_stcb.py`), each as it is and
by `torch.compile` (with --quick the best form alone); the best of them in a short trial is the
peer, on a GPU one of each kind.
The second table says how far this project is from reading its inputs and writing its results once.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import comparison
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from comparison import Row

from stpyramid_jax.models.fusion import STCB, Attention, over_lines, unit_rms
from stpyramid_jax.ops.attention import attention_pool
from stpyramid_jax.performance import compiler_options

PACKAGES = ("jax", "jaxlib", "flax", "torch", "numpy")
# Of the mean size; gradients through the signed square root are as steep as 5,000 near zero.
TOLERANCE = 1e-2


class Level(nn.Module):
    """Inputs, and what becomes of them, of a level of the pyramid.

    Attributes:
      inputs: how many features are fused.
      output_dim: d.
      attends: from the product of two maps on to the pooled one.
      vectors: the inputs are vectors [B, p], not maps [B, h, w, p].
    """

    inputs: int
    output_dim: int
    attends: bool = False
    vectors: bool = False

    @nn.compact
    def __call__(self, *features):
        if self.attends:
            return attention_pool(features[0], over_lines(Level._scores, self, *features))[0]
        if self.vectors:
            return self._fuse(*features)
        return over_lines(Level._fuse, self, *features)

    def _fuse(self, *features):
        return STCB(self.output_dim, seed=0, level=1, name="stcb")(features)

    def _scores(self, *features):
        return Attention(name="attention")(unit_rms(self._fuse(*features)))


LEVELS = {
    "level 1": (Level(3, 1024),),
    "level 2 product": (Level(2, 2048),),
    "level 3": (Level(3, 4096, vectors=True),),
    "levels 1 to 3": (Level(3, 1024), Level(2, 2048), Level(3, 4096, vectors=True)),
    "attention level": (Level(2, 2048, attends=True),),
}
QUICK = ("level 3", "levels 1 to 3", "attention level")


class Case(NamedTuple):
    """Levels that one step computes, and of what: maps [batch, side, side, features]."""

    levels: str
    backward: bool = True
    batch: int = 32
    side: int = 7
    features: int = 1024

    def __str__(self):
        usual = self._field_defaults
        sizes = {"batch": "batch {}", "side": "{0}x{0}", "features": "p {}"}
        changed = [
            text.format(getattr(self, name))
            for name, text in sizes.items()
            if getattr(self, name) != usual[name]
        ]
        return ", ".join([self.levels, *changed, "forward" + "+backward" * self.backward])


def cases(quick: bool) -> Iterator[Case]:
    """Each level with and without gradients; then batch, map and p, one at a time."""
    if quick:
        yield from (Case(levels) for levels in QUICK)
        return
    yield from (Case(levels, backward) for backward in (True, False) for levels in LEVELS)
    for levels in ("levels 1 to 3", "attention level"):
        yield Case(levels, batch=128)
        yield from (Case(levels, side=side) for side in (13, 14))
        yield from (Case(levels, features=p) for p in (512, 2048))


class Step(NamedTuple):
    """A case's numbers: `learned` is (parameters, inputs) of each level, `fixed` the sketches."""

    learned: list
    fixed: list
    cotangents: list


def numbers(case: Case) -> Step:
    """Standard normal inputs and cotangents, the sketches and parameters of the model."""
    random = np.random.default_rng(0)
    learned, fixed, cotangents = [], [], []
    for level in LEVELS[case.levels]:
        place = (case.batch,) if level.vectors else (case.batch, case.side, case.side)
        draw = functools.partial(random.standard_normal, dtype=np.float32)
        inputs = [jnp.asarray(draw((*place, case.features))) for _ in range(level.inputs)]
        output, variables = level.init_with_output(jax.random.key(0), *inputs)
        learned.append((variables.get("params", {}), inputs))
        fixed.append(variables["sketch"])
        cotangents.append(jnp.asarray(draw(output.shape)))
    return Step(learned, fixed, cotangents)


def ours(case: Case) -> Any:
    """The jitted step: the results of all levels, and (parameters', inputs') gradients."""

    def forward(learned, fixed):
        return [
            level.apply({"params": params, "sketch": sketch}, *inputs)
            for level, (params, inputs), sketch in zip(
                LEVELS[case.levels], learned, fixed, strict=True
            )
        ]

    def step(numbers):
        if not case.backward:
            return forward(numbers.learned, numbers.fixed), []
        result, pull = jax.vjp(lambda learned: forward(learned, numbers.fixed), numbers.learned)
        return result, pull(numbers.cotangents)[0]

    return jax.jit(step, compiler_options=compiler_options())


def theirs(case: Case, step: Step, form: str, compiled: bool) -> Callable[[], Any]:
    """The step in a form of PyTorch; results and gradients in the order of `ours`."""
    import torch
    import torch_stcb

    levels, inputs, leaves = torch.nn.ModuleList(), [], []
    for level, (params, features), sketch in zip(
        LEVELS[case.levels], step.learned, step.fixed, strict=True
    ):
        pairs = [(pair["hash"], pair["sign"]) for pair in sketch["stcb"]["inputs"]]
        attention = jax.tree.leaves(params)
        peer = torch_stcb.Level(form, level.output_dim, pairs, attention)
        levels.append(peer)
        inputs.append([torch_stcb.tensor(x).requires_grad_(case.backward) for x in features])
        leaves += [*peer.attention, *inputs[-1]]
    cotangents = [torch_stcb.tensor(x) for x in step.cotangents]

    def forward(inputs):
        return [level(*features) for level, features in zip(levels, inputs, strict=True)]

    if compiled:
        forward = torch.compile(forward, dynamic=False)

    def run():
        with torch.set_grad_enabled(case.backward):
            result = forward(inputs)
            gradients = torch.autograd.grad(result, leaves, cotangents) if case.backward else ()
        return torch_stcb.finished((*result, *gradients))

    return run


def compared(
    case: Case, chosen: argparse.Namespace, bandwidth: float, notes: list[dict[str, Any]]
) -> Iterator[Row]:
    """The case beside the best PyTorch; on a GPU beside the best eager and the best compiled."""
    import torch_stcb

    step = numbers(case)
    run = ours(case).lower(step).compile()
    peers = {form: theirs(case, step, form, compiled=False) for form in torch_stcb.FORMS}
    eager = comparison.ranked(peers, 1)
    for form in eager[:1] if chosen.quick else eager:
        peers[f"{form} compiled"] = theirs(case, step, form, compiled=True)
    compiled = comparison.ranked({name: peers[name] for name in peers if name not in eager}, 1)
    groups = [[*eager[:2], *compiled[:2]]]
    if torch_stcb.DEVICE.type == "cuda":
        groups = [eager[:2], compiled[:2]]
    result = [np.asarray(x) for x in jax.tree.leaves(run(step))]
    for group in groups:
        best = comparison.ranked({name: peers[name] for name in group}, 3)[0]
        expected = [x.detach().cpu().numpy() for x in peers[best]()]
        comparison.check_equal(f"{case}, {best}", result, expected, TOLERANCE)
        both = [lambda: jax.block_until_ready(run(step)), peers[best]]
        here, there = comparison.in_turn(both, chosen.repetitions)
        yield Row(str(case), f"PyTorch {best}", 1e3 * here, 1e3 * there, "ms")
    if len(LEVELS[case.levels]) == 1:
        notes.append(roofline(case, run.memory_analysis(), here, bandwidth))


def roofline(case: Case, held: Any, seconds: float, bandwidth: float) -> dict[str, Any]:
    """What the compiled step holds and computes, and its time beside that of the bytes alone.

    Levels of maps treat positions alike, so that their FLOPs are those of one position times the
    positions: XLA counts the body of a loop once.
    """
    one = case._replace(side=1)
    positions = 1 if LEVELS[case.levels][0].vectors else case.side**2
    outside = held.argument_size_in_bytes + held.output_size_in_bytes
    bound = outside / bandwidth
    return {
        "case": str(case),
        "inputs and results, MB": outside / 1e6,
        "temporaries, MB": held.temp_size_in_bytes / 1e6,
        "MFLOP": ours(one).lower(numbers(one)).cost_analysis()["flops"] * positions / 1e6,
        "bound, ms": 1e3 * bound,
        "times the bound": seconds / bound,
    }


def copy_bandwidth(repetitions: int) -> float:
    """Bytes a second that JAX reads and writes where an array of 256 MB takes its own place."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [jnp.zeros(2**26)]

    def run():
        held[0] = add(held[0]).block_until_ready()

    run()
    (seconds,) = comparison.in_turn([run], repetitions)
    return 2 * held[0].nbytes / seconds


def print_roofline(notes: list[dict[str, Any]], bandwidth: float) -> None:
    print(f"\nThis project beside inputs and results moved once, at {bandwidth / 1e9:.1f} GB/s")
    for line in (dict(zip(notes[0], notes[0], strict=True)), *notes):
        case, *cells = (x if isinstance(x, str) else f"{x:.1f}" for x in line.values())
        print(f"{case:44}", *(f"{cell:>23}" for cell in cells))


def main() -> None:
    chosen = comparison.options(__doc__)
    comparison.require("torch")
    bandwidth, notes = copy_bandwidth(chosen.repetitions), []
    results = itertools.chain.from_iterable(
        compared(case, chosen, bandwidth, notes) for case in cases(chosen.quick)
    )
    rows = list(comparison.tabulated(results, PACKAGES))
    print_roofline(notes, bandwidth)
    if chosen.json:
        comparison.write(chosen.json, rows, PACKAGES, {"bandwidth": bandwidth, "roofline": notes})


if __name__ == "__main__":
    main()
