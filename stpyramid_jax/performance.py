"""What makes programs fast on the machine that they run on, and how near its limits they come."""

import math
import re
from typing import Any

import jax
import numpy as np

# FLOP/s of dense bfloat16 matrix products by `device_kind`; NVIDIA states most with 2:4 sparsity,
# twice these. A part of a GPU (MIG) is none of them.
_PEAKS = {
    # cloud.google.com/tpu/docs, "System architecture" of each version; names as in JAX's
    # pallas/mosaic/tpu_info.py. A device is a chip, but of 7x one of the two cores of a chip.
    r"TPU v4": 275e12,
    r"TPU v5( lite|e)": 197e12,
    r"TPU v5p?": 459e12,
    r"TPU v6( lite|e)": 918e12,
    r"TPU7x": 2307e12 / 2,
    # NVIDIA's data sheets; names as the driver gives them.
    r"NVIDIA A100.*": 312e12,
    r"NVIDIA H100 PCIe": 756e12,
    r"NVIDIA H[12]00 NVL": 835e12,
    r"NVIDIA H100 80GB HBM3|NVIDIA H200": 989e12,
    r"NVIDIA B200": 2250e12,
    r"NVIDIA L4": 121e12,
    # These have float16 only.
    r"Tesla T4": 65e12,
    r"Tesla V100-PCIE.*": 112e12,
    r"Tesla V100-SXM2.*": 125e12,
}


def compiler_options() -> dict[str, str]:
    """Options for `jax.jit` of what holds convolutions.

    On CPU, XLA hands chains of convolutions to a library of its own (YNNPACK, in jax 0.10 to 0.12),
    which takes longer than its other kernels: docs/benchmarks.md has the figures.
    """
    cpu = jax.default_backend() == "cpu"
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if cpu else {}


def peak_flops(device: jax.Device) -> float | None:
    """FLOP/s of dense bfloat16 matrix products that the device could do; None where not known."""
    kind = device.device_kind
    if "MIG" in kind:
        return None
    return next((peak for name, peak in _PEAKS.items() if re.fullmatch(name, kind)), None)


def step_flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products and convolutions of a program, a multiplication and an addition
    each: what `peak_flops` speaks of.

    Counted in the program as it was traced, `jax.jit(step).trace(...).jaxpr`, for all devices
    together. The compiler's own count, `cost_analysis()`, takes the body of a loop once and one
    device's part of a mesh, and on GPU it has missed what is handed to a library (jax issue 22249).
    On one device and without loops both agree, but for what is no product.

    Padding is not counted, nor the zeros between the samples of a dilated input. Of branches the
    longest counts, of a loop without a known length one turn. What `remat` computes again counts.
    """
    return sum(_flops(equation) for equation in jaxpr.eqns)


def _flops(equation) -> float:
    params = equation.params
    match equation.primitive.name:
        case "dot_general":
            left, output = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            contracted = math.prod(left[axis] for axis in params["dimension_numbers"][0][0])
            return 2.0 * math.prod(output) * contracted
        case "conv_general_dilated":
            image, kernel = (x.aval.shape for x in equation.invars)
            return _convolution(image, kernel, equation.outvars[0].aval.shape, params)
        case "cond":
            return max(step_flops(branch) for branch in params["branches"])
    times = params.get("length", 1) if equation.primitive.name == "scan" else 1
    if equation.primitive.name == "shard_map":  # the body is one device's part
        times = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return times * sum(step_flops(value) for value in params.values() if hasattr(value, "eqns"))


def _convolution(image, kernel, output, params) -> float:
    """Products of a sample with a weight: separable, so counted along each spatial axis."""
    numbers = params["dimension_numbers"]
    pairs = 1
    for i, (low, _) in enumerate(params["padding"]):
        size, taps, places = (
            shape[spec[2 + i]] for shape, spec in zip((image, kernel, output), numbers, strict=True)
        )
        dilation = params["lhs_dilation"][i]
        at = np.arange(places)[:, None] * params["window_strides"][i] - low
        at = at + np.arange(taps) * params["rhs_dilation"][i]
        inside = (at >= 0) & (at <= (size - 1) * dilation) & (at % dilation == 0)
        pairs *= int(inside.sum())
    rows, features = (output[axis] for axis in numbers.out_spec[:2])
    return 2.0 * rows * features * kernel[numbers.rhs_spec[1]] * pairs


def device_memory() -> dict[str, int]:
    """Bytes in use and their peak so far, of the fullest device of this process; none on CPU."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    names = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use"}
    return {
        name: max(known)
        for name, key in names.items()
        if (known := [device[key] for device in stats if device and key in device])
    }
