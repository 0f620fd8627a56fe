"""The processes of a run: one on each host of a TPU pod or node of a cluster, or as flags say."""

import contextlib
import importlib.util
import os

import jax

# Devices that the kernel shows for the TPUs of a host, by generation.
_TPUS = ("/dev/accel0", "/dev/vfio/0")


def connect(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins this process to the others of its run; must come before anything else of JAX.

    Without arguments, processes that Slurm started and the hosts of a TPU pod find each other, and
    any other program runs alone.

    Args:
      coordinator: `host:port` of process 0, which listens there.
      processes: how many there are.
      process: the number of this one, from 0.

    Raises:
      ValueError: some arguments are given and others not, or are impossible.
    """
    given = {"coordinator": coordinator, "num_processes": processes, "process_id": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) < len(given):
        if missing or processes is None or process is None:
            raise ValueError(
                f"{', '.join(missing)}: missing; several processes need --coordinator=host:port, "
                "--num_processes and --process_id, each its own"
            )
        host, _, port = (coordinator or "").rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(f"--coordinator={coordinator}: must be host:port of process 0")
        if processes < 1:
            raise ValueError(f"--num_processes={processes}: at least 1")
        if not 0 <= process < processes:
            raise ValueError(f"--process_id={process}: 0 to {processes - 1}, of --num_processes")
        jax.distributed.initialize(coordinator, processes, process)
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NODELIST" in os.environ:
        jax.distributed.initialize(cluster_detection_method="slurm")
    elif importlib.util.find_spec("libtpu") and any(map(os.path.exists, _TPUS)):
        # One host that no metadata tells of others, such as a notebook's, runs alone.
        with contextlib.suppress(ValueError, OSError):
            jax.distributed.initialize()
