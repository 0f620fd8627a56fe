"""Where arrays live: batches over the mesh axis `data`, parameters on every device."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """All devices of all processes on one axis, `data`, with shardings inferred by the compiler."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def round_up(rows: int, mesh: Mesh) -> int:
    """The least multiple of the number of devices that holds so many rows."""
    return -(-rows // mesh.size) * mesh.size


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits this process's part of a batch along its first axis over the devices.

    The batch must divide by the number of devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
