"""What a run says of itself at its start, as lines of text."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

_MIB = 2**20


def devices_line(mesh: Mesh) -> str:
    """Which devices there are, and the mesh that they make."""
    first = mesh.devices.flat[0]
    processes = len({device.process_index for device in mesh.devices.flat})
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    where = "1 process" if processes == 1 else f"{processes} processes"
    return f"devices: {mesh.size} x {first.device_kind} ({first.platform}) of {where}, mesh: {axes}"


def data_line(name: str, split: str, training: int, validation: int, digest: str) -> str:
    """The data set and how many of its clips serve what."""
    held = f", {validation} held out for validation" if validation else ""
    return f"data set: {name} {split}, {training} clips to train on{held}, digest {digest[:12]}"


def batch_line(batch_size: int, accumulate: int, mesh: Mesh) -> str:
    """The samples of an update, and how they meet the devices."""
    parts = f" in {accumulate} micro-batches" if accumulate > 1 else ""
    return (
        f"batch: {batch_size} samples an update{parts}, "
        f"{batch_size // accumulate // mesh.size} at a time on each device"
    )


def parameter_table(params: Any, rates: Any) -> str:
    """A row for each part of the network and one for all.

    Args:
      params: arrays, or their shapes and shardings.
      rates: of each array, the multiplier of its learning rate; what has 0 is frozen.
    """
    groups = [
        (name, jax.tree.leaves(part), jax.tree.leaves(rates[name])) for name, part in params.items()
    ]
    groups.append(("total", jax.tree.leaves(params), jax.tree.leaves(rates)))
    rows = [("part", "arrays", "divided", "parameters", "trained", "MiB", "MiB a device")]
    for name, arrays, factors in groups:
        sizes = [_bytes(array) for array in arrays]
        rows.append(
            (
                name,
                f"{len(arrays):,}",
                f"{sum(part < whole for whole, part in sizes):,}",
                f"{sum(x.size for x in arrays):,}",
                f"{sum(x.size for x, rate in zip(arrays, factors, strict=True) if rate > 0):,}",
                f"{sum(whole for whole, _ in sizes) / _MIB:,.1f}",
                f"{sum(part for _, part in sizes) / _MIB:,.1f}",
            )
        )
    return _aligned(rows)


def frozen_lines(rates: Any) -> list[str]:
    """A line for each part of the network with arrays whose rate is 0: how many, of what kind."""
    lines = []
    for name, part in rates.items():
        paths = jax.tree_util.tree_leaves_with_path(part)
        kinds = [_kind(path) for path, rate in paths if not rate]
        if len(kinds) == len(paths):
            lines.append(f"frozen: all of {name}")
        elif kinds:
            counts = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in sorted({*kinds}))
            lines.append(f"frozen: {len(kinds)} of {len(paths)} arrays of {name} ({counts})")
    return lines or ["frozen: nothing"]


def step_line(flops: float, compiled: jax.stages.Compiled, seconds: float) -> str:
    """What a step of training costs: arithmetic, and the memory that the compiler asks for."""
    line = f"step: {flops / 1e9:,.1f} GFLOP, compiled in {seconds:.0f} s"
    memory = compiled.memory_analysis()
    if memory is None:
        return line
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (
        f"{line}, memory of a device: {kept / _MIB:,.0f} MiB of state and batch, "
        f"{memory.temp_size_in_bytes / _MIB:,.0f} MiB while it runs"
    )


def _bytes(array: Any) -> tuple[int, int]:
    """Of the whole array, and of the part that one device holds."""
    item, sharding = array.dtype.itemsize, getattr(array, "sharding", None)
    part = sharding.shard_shape(array.shape) if sharding else array.shape
    return item * array.size, item * math.prod(part)


def _kind(path: Sequence[Any]) -> str:
    names = [str(key.key) for key in path[-2:]]
    return f"norm {names[-1]}" if names[0].startswith("norm") else names[-1]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
