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


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits this process's part of a batch along its first axis over the devices.

    Raises:
      ValueError: the global batch does not divide by the number of devices.
    """
    rows = len(next(iter(batch.values()))) * jax.process_count()
    if rows % mesh.size:
        raise ValueError(
            f"batch_size={rows} on {mesh.size} devices: give a multiple of {mesh.size}"
        )
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
