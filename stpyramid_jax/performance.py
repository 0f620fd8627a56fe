"""What makes programs fast on the machine that they run on."""

import jax


def compiler_options() -> dict[str, str]:
    """Options for `jax.jit` of what holds convolutions.

    On CPU, XLA hands chains of convolutions to a library of its own (YNNPACK, in jax 0.10 to 0.12),
    which takes longer than its other kernels: docs/benchmarks.md has the figures.
    """
    cpu = jax.default_backend() == "cpu"
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if cpu else {}
