"""Where arrays live: a mesh of devices, `data` x `model`.

    data   devices that each hold the whole model
    model  devices that divide it among themselves (FSDP: Zhao et al. 2023, "ZeRO-3")

Every device has its own part of the batch, along both axes. What is divided over `model` is whole
only while a step computes with it, so a device keeps 1 / model of parameters and optimizer state.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "model")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh's axes; -1 is as many devices as the other axis leaves.

    Attributes:
      data: parts that a batch is divided into.
      model: devices that parameters and optimizer state are divided among.
    """

    data: int = -1
    model: int = 1

    def __post_init__(self):
        for key in AXES:
            if getattr(self, key) < 1 and getattr(self, key) != -1:
                raise ValueError(f"mesh.{key}={getattr(self, key)}: at least 1, or -1 for the rest")
        if self.data == self.model == -1:
            raise ValueError("mesh.data=-1, mesh.model=-1: only one can be the rest")


def make_mesh(config: MeshConfig | None = None) -> Mesh:
    """All devices of all processes, shardings inferred by the compiler.

    Raises:
      ValueError: the axes do not multiply to the number of devices.
    """
    config = config or MeshConfig()
    count = jax.device_count()
    sizes = [config.data, config.model]
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, count // -(sizes[0] * sizes[1]))
    if sizes[0] * sizes[1] != count:
        raise ValueError(
            f"mesh.data={config.data} x mesh.model={config.model}: there are {count} devices; "
            "give two factors of that number, or -1 for one of them"
        )
    # By process and not by topology, so that each process has a run of rows of every batch.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.reshape(devices, sizes), AXES, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def divided(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """The sharding of each array: over `model` along its largest axis that can be, else whole.

    Vectors stay whole: they are biases and statistics, too small to be worth a message.
    """
    parts = mesh.shape["model"]

    def sharding(array) -> NamedSharding:
        axes = [axis for axis, size in enumerate(array.shape) if size % parts == 0]
        if parts == 1 or array.ndim < 2 or not axes:
            return NamedSharding(mesh, PartitionSpec())
        largest = max(axes, key=lambda axis: array.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "model"))

    return jax.tree.map(sharding, tree)


def gathered(tree: Any) -> Any:
    """Inside a step: arrays that are divided over `model`, whole on every device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.shape.get("model", 1) == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def scattered(tree: Any) -> Any:
    """Inside a step: arrays divided as parameters are, each device with its part of their sum."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.shape.get("model", 1) == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, divided(tree, mesh))


def round_up(rows: int, mesh: Mesh) -> int:
    """The least multiple of the number of devices that holds so many rows."""
    return -(-rows // mesh.size) * mesh.size


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """One batch over all devices, of the rows that each process brings, the first's first.

    All processes bring equally many rows, and the batch must divide by the number of devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXES))
    with jax.transfer_guard("allow"):  # the loop allows no other
        return {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in batch.items()
        }
