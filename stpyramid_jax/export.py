"""A trained network as a program that needs neither this package nor its configuration.

    export/pyramid.stablehlo   the program with its weights, by `jax.export`
    export/signature.json      what goes in, what comes out, and of what run it is
    export/saved_model/1/      the program for TensorFlow, where that is installed

Whole frames and fields go in, as the shards hold them; the program cuts evaluation's centre view
out of them. docs/export.md says how to serve it.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, UInt8

import stpyramid_jax
from stpyramid_jax import disk
from stpyramid_jax.experiment import Experiment, load_experiment
from stpyramid_jax.extras import extra
from stpyramid_jax.input.augment import View, test_views
from stpyramid_jax.models.pyramid import ModelConfig, Outputs, create_model
from stpyramid_jax.preparation.sources.flow import BOUND
from stpyramid_jax.progress import say
from stpyramid_jax.training.checkpoint import load_trained
from stpyramid_jax.training.sharding import make_mesh

_PLATFORMS = ("cpu", "cuda", "tpu")
_FIELD = (
    "of snippets around frame t, channels x1, y1, x2, y2, ...; a displacement of v pixels is byte "
    f"floor(255 (v + {BOUND:g}) / {2 * BOUND:g} + 0.5), clipped"
)
_MEANINGS = {
    "rgb": "frame t, RGB",
    "flow": f"flow from each frame to the next {_FIELD}",
    "warped": f"flow without the camera's motion {_FIELD}",
    "rgb_difference": "frames of snippets around frame t, RGB; the program subtracts them",
}


def export_model(workdir: Path) -> list[Path]:
    """Writes the network that would be evaluated to `export/`, and returns what was written.

    One program serves any number of samples, on CPU, CUDA GPUs and TPU. Its count sketches, levels
    and pools have the forms of the machine that exports: right on every platform, fast on its own.

    Raises:
      ValueError: no trained run in the workdir, or its `export` is a file.
      ModuleNotFoundError: flatbuffers is not installed.
    """
    with extra("interop"):
        import flatbuffers  # noqa: F401 - `serialize` needs it: known before any work
    experiment, dataset = load_experiment(workdir)
    folder = workdir / "export"
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; rename it, the export makes a folder of this name")
    trained = load_trained(experiment, workdir, make_mesh())
    width, height = dataset["size"]
    (view,) = test_views((height, width), experiment.input.test_scale, crops=1)
    program = jax.jit(
        functools.partial(
            _probabilities,
            jax.device_get(trained.variables),
            config=experiment.model,
            view=view,
            crop=experiment.input.crop,
        )
    )
    inputs = _inputs(experiment.model, height, width)
    with _nameless_sources():
        exported = export.export(program, platforms=_PLATFORMS)(inputs)
    signature = _signature(experiment, dataset, inputs) | {"step": trained.step}

    folder.mkdir(exist_ok=True)
    saved_model = folder / "saved_model"
    shutil.rmtree(saved_model, ignore_errors=True)  # may be of an earlier checkpoint
    paths = [folder / "pyramid.stablehlo", folder / "signature.json"]
    disk.write(paths[0], exported.serialize())
    disk.write(paths[1], (json.dumps(signature, indent=2) + "\n").encode())
    try:
        with _nameless_sources():
            paths.append(_write_saved_model(saved_model / "1", program, inputs))
    except Exception as error:  # TensorFlow's may be any; what is written needs none of it
        shutil.rmtree(saved_model, ignore_errors=True)  # what there is of one would be served
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        say(f"export: no SavedModel, which TensorFlow writes ({reason})")
    return paths


def _probabilities(
    variables: Any,
    images: Mapping[str, UInt8[Array, "B ..."]],
    *,
    config: ModelConfig,
    view: View,
    crop: int,
) -> Float[Array, "B K"]:
    """Probabilities of the classes by the centre view of whole images."""
    seen = {name: cut(image, view, crop) for name, image in images.items()}
    outputs = cast(Outputs, create_model(config).apply(variables, seen, train=False))
    return jax.nn.softmax(outputs.logits)


def cut(
    images: UInt8[Array, "*batch H W C"], view: View, crop: int
) -> UInt8[Array, "*batch crop crop C"]:
    """The box of a view, resized to a square: `augment`'s view, to the byte; it does not mirror.

    Bilinear resizing of bytes in integers, as OpenCV does it (imgproc/src/resize.cpp): pixels are
    weighted in parts of 2048, first across and then down, and 4, 16 and 2 bits are dropped.
    """
    box = images[..., view.y : view.y + view.height, view.x : view.x + view.width, :]
    if (view.height, view.width) == (crop, crop):
        return box
    near, far = _neighbours(view.width, crop)
    rows = box.astype(jnp.int32)
    rows = (_weighted(rows, -2, *near) + _weighted(rows, -2, *far)) >> 4
    near, far = _neighbours(view.height, crop)
    pixels = (_weighted(rows, -3, *near) >> 16) + (_weighted(rows, -3, *far) >> 16)
    return ((pixels + 2) >> 2).astype(jnp.uint8)


def _neighbours(size: int, crop: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two of `size` pixels between which each of `crop` lies: places and parts of 2048."""
    place = ((np.arange(crop) + 0.5) * (size / crop) - 0.5).astype(np.float32)
    low = np.floor(place)
    near, far = (np.rint(2048 * part).astype(np.int32) for part in (1 - (place - low), place - low))
    first = low.astype(np.int32)
    return [(first.clip(0), near), ((first + 1).clip(max=size - 1), far)]


def _weighted(x: Array, axis: int, places: np.ndarray, weights: np.ndarray) -> Array:
    """Pixels along an axis, each times its weight."""
    shape = [1] * x.ndim
    shape[axis] = len(weights)
    return jnp.take(x, places, axis, mode="clip") * weights.reshape(shape)


def _inputs(config: ModelConfig, height: int, width: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the whole images, with any number of samples `b`."""
    sizes = {"B": export.symbolic_shape("b")[0], "H": height, "W": width}
    shapes = {
        name: [axis if isinstance(axis, int) else sizes[axis] for axis in axes]
        for name, axes in config.layouts.items()
    }
    return {name: jax.ShapeDtypeStruct(shape, jnp.uint8) for name, shape in shapes.items()}


def _signature(experiment: Experiment, dataset: Mapping[str, Any], inputs) -> dict[str, Any]:
    """What a program that serves the network must know."""
    config = experiment.model
    return {
        "inputs": [
            {
                "name": name,
                "shape": [str(size) if size == spec.shape[0] else size for size in spec.shape],
                "dtype": "uint8",
                "meaning": _MEANINGS["rgb" if name == "rgb" else config.motion],
            }
            for name, spec in sorted(inputs.items())  # the order of the program's arguments
        ],
        "output": {"name": "probabilities", "shape": ["b", config.num_classes], "dtype": "float32"},
        "classes": dataset["classes"],
        "snippets": {
            "number": config.snippets,
            "length": config.snippet_length,
            "interval": experiment.input.test_tau,
            "flow": dataset["flow"],
        },
        "view": {"scale": experiment.input.test_scale, "crop": experiment.input.crop},
        "dataset": {"name": dataset["name"], "digest": dataset["digest"]},
        "split": experiment.data.split,
        "platforms": list(_PLATFORMS),
        "versions": {"stpyramid_jax": stpyramid_jax.__version__, "jax": jax.__version__},
    }


@contextlib.contextmanager
def _nameless_sources() -> Iterator[None]:
    """Within, a program tells its source files without the folders of this machine."""
    key = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, key)
    jax.config.update(key, ".*/")
    try:
        yield
    finally:
        jax.config.update(key, before)


def _write_saved_model(folder: Path, program, inputs) -> Path:
    """The program as TensorFlow Serving takes it: named inputs, the output `probabilities`.

    Raises:
      ImportError: TensorFlow is not installed, or JAX has no bridge to it any more.
      NotImplementedError: TensorFlow is too old for this JAX.
    """
    import tensorflow as tf  # pyrefly: ignore[missing-import]
    from jax.experimental import jax2tf

    call = jax2tf.convert(
        program,
        polymorphic_shapes=[{name: "b, ..." for name in inputs}],
        native_serialization_platforms=_PLATFORMS,
        with_gradient=False,
    )
    serve = tf.function(lambda **images: {"probabilities": call(images)}, autograph=False)
    shapes = {
        name: tf.TensorSpec([None, *spec.shape[1:]], tf.uint8, name)
        for name, spec in inputs.items()
    }
    tf.saved_model.save(tf.Module(), str(folder), signatures=serve.get_concrete_function(**shapes))
    return folder
