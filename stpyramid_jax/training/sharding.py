"""Where arrays live: batches over the mesh axis `data`, parameters on every device."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """All devices on one axis, `data`, with shardings inferred by the compiler.

    Raises:
      ValueError: JAX runs on several processes, which this version does not feed.
    """
    if jax.process_count() > 1:
        raise ValueError(f"{jax.process_count()} processes: this version runs on one")
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def round_up(rows: int, mesh: Mesh) -> int:
    """The least multiple of the number of devices that holds so many rows."""
    return -(-rows // mesh.size) * mesh.size


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits a batch along its first axis over the devices.

    The batch must divide by the number of devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.device_put(array, sharding) for name, array in batch.items()}
