"""What is exported gives the network's own answers, where this package is not."""

import dataclasses
import functools
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest
from jax import export

from stpyramid_jax import export as exporting
from stpyramid_jax.experiment import build_experiment, default_config
from stpyramid_jax.export import cut, export_model
from stpyramid_jax.input import augment
from stpyramid_jax.models.pyramid import MODELS, create_model, named_model
from stpyramid_jax.training.checkpoint import Checkpoints
from stpyramid_jax.training.history import History
from stpyramid_jax.training.state import init_state
from tests.conftest import ROOT

WIDTH, HEIGHT, CROP, SCALE = 40, 30, 24, 0.9  # a box of 27
BINS = 16  # of sketches
DATASET = {
    "name": "none",
    "digest": "0123",
    "classes": ["a class", "ß\n"],
    "size": [WIDTH, HEIGHT],
    "flow": "tvl1",
}
# Rows of the ablation, and a flow stream that sees differences of frames.
ROWS = {**{name: {} for name in MODELS}, "differences": {"motion": "rgb_difference"}}

# Makes importing the package, and what it is built with, an error.
ALONE = """
import sys
for name in ("stpyramid_jax", "flax", "orbax", "ml_collections", "grain", "cv2"):
    sys.modules[name] = None
"""


def trained(workdir, name, backbone="convnet"):
    """A workdir with a checkpoint of noise, which no compilation has to make."""
    config = default_config()
    config.data.dir = "none"
    config.input.update(crop=CROP, test_scale=SCALE)
    config.optimizer.learning_rate = 0.1
    config.training.update(steps=1, batch_size=1)
    config.model.update(named_model(name if name in MODELS else "D"), **ROWS[name])
    config.model.update(snippet_length=2, sketch_dims=(BINS,) * 3, backbone=backbone)
    experiment = build_experiment(config.to_dict(), num_classes=2)
    shapes = jax.eval_shape(functools.partial(init_state, experiment), jax.random.key(0))
    rng = np.random.default_rng(0)
    state = jax.tree_util.tree_map_with_path(functools.partial(_noise, rng), shapes)
    state = state.replace(step=jax.numpy.int32(3))
    workdir.mkdir(parents=True)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(state, History())
    record = dataclasses.asdict(experiment) | {"dataset": DATASET}
    (workdir / "config.json").write_text(json.dumps(record))
    return SimpleNamespace(workdir=workdir, config=experiment.model, variables=state.variables)


def _noise(rng, path, leaf):
    name, units = str(getattr(path[-1], "key", "")), "units" in jax.tree_util.keystr(path)
    if name == "hash":
        return jax.numpy.asarray(rng.integers(0, BINS, leaf.shape, np.int32))
    if name == "sign":
        return jax.numpy.asarray(rng.choice([-1.0, 1.0], leaf.shape).astype(np.float32))
    # Near what keeps the size of features from layer to layer.
    mean = {"mean": 120.0 if units else 0.0, "scale": 1 / 64 if units else 1.0, "var": 1.0}
    size = np.sqrt(2 / max(1, np.prod(leaf.shape[:-1]))) if name == "kernel" else 0.1
    factor = 1 + 0.1 * rng.standard_normal(leaf.shape)
    values = mean[name] * factor if name in mean else size * rng.standard_normal(leaf.shape)
    return jax.numpy.asarray(values, leaf.dtype)


def whole(config, rows):
    """Whole images as the shards would hold them: noise in every pixel, darker from row to row."""
    rng, sizes = np.random.default_rng(0), {"B": rows, "H": HEIGHT, "W": WIDTH}
    images = {}
    for name, axes in config.layouts.items():
        noise = rng.integers(0, 256, [sizes.get(axis, axis) for axis in axes], np.uint8)
        images[name] = noise // np.arange(1, rows + 1, dtype=np.uint8).reshape(
            -1, *[1] * (len(axes) - 1)
        )
    return images


def centre_views(images, crop=CROP, scale=SCALE):
    """Of evaluation: each channel of [..., H, W, C] cut and resized by OpenCV."""
    (view,) = augment.test_views(images.shape[-3:-1], scale, 1)
    planes = np.moveaxis(images, -1, -3).reshape(-1, *images.shape[-3:-1])
    boxes = planes[:, view.y : view.y + view.height, view.x : view.x + view.width]
    seen = np.stack([cv2.resize(np.ascontiguousarray(box), (crop, crop)) for box in boxes])
    seen = seen.reshape(*images.shape[:-3], images.shape[-1], crop, crop)
    return np.moveaxis(seen, -3, -1)


def expected(run, images):
    """The network's own probabilities for the views that evaluation would show it."""
    seen = {name: centre_views(image) for name, image in images.items()}
    apply = jax.jit(functools.partial(create_model(run.config).apply, train=False))
    return np.asarray(jax.nn.softmax(apply(run.variables, seen).logits))


def elsewhere(program, cwd, *arguments):
    """Runs a program in a fresh, isolated interpreter."""
    result = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", program, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run by the name of its row, exported once."""
    folder = tmp_path_factory.mktemp("runs of a naïve user")

    @functools.cache
    def exported(name):
        run = trained(folder / f"{name} ß", name)
        export_model(run.workdir)
        return run

    return exported


CALL = """
import jax, numpy as np
from jax import export
from pathlib import Path
for folder in map(Path, sys.argv[1:]):
    call = jax.jit(export.deserialize(bytearray((folder / "pyramid.stablehlo").read_bytes())).call)
    for asked in sorted(folder.glob("asked*.npz")):
        np.save(asked.with_suffix(".npy"), call(dict(np.load(asked))))
"""


def agree(runs, sizes, cwd):
    """Programs alone against their networks, on the first of eight samples."""
    asked = [whole(run.config, 8) for run in runs]
    for run, images in zip(runs, asked, strict=True):
        for rows in sizes:
            some = {name: image[:rows] for name, image in images.items()}
            np.savez(run.workdir / "export" / f"asked{rows}.npz", **some)
    elsewhere(ALONE + CALL, cwd, *(run.workdir / "export" for run in runs))
    for run, images in zip(runs, asked, strict=True):
        wanted = expected(run, images)
        assert np.ptp(wanted[:, 0]) > 1e-2  # else agreeing means nothing
        for rows in sizes:
            answer = np.load(run.workdir / "export" / f"asked{rows}.npy")
            assert answer.dtype == np.float32
            np.testing.assert_allclose(answer, wanted[:rows], atol=2e-5, err_msg=run.workdir.name)


def test_a_program_alone_gives_the_answers_of_the_network(exported, tmp_path):
    agree([exported("D")], (1, 3, 8), tmp_path)


@pytest.mark.slow
def test_so_does_that_of_every_row_of_the_ablation(exported, tmp_path):
    agree([exported(name) for name in ROWS if name != "D"], (3,), tmp_path)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_it_holds_a_program_for_each_platform(exported, platform):
    program = _load(exported("D"))
    assert platform in program.platforms
    images = whole(exported("D").config, 2)
    lowered = jax.jit(program.call).trace(images).lower(lowering_platforms=(platform,))
    called = set(re.findall(r"custom_call @(\w+)", lowered.as_text()))
    assert called <= {
        "shape_assertion"
    }  # else StableHLO alone, which JAX and others promise to read


def test_forms_of_accelerators_give_the_same_answers(exported, tmp_path, monkeypatch):
    """What a machine with another backend would export, run on this one."""
    run, there = exported("D"), SimpleNamespace(workdir=tmp_path / "there")
    shutil.copytree(run.workdir, there.workdir)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    export_model(there.workdir)
    monkeypatch.undo()
    programs = _load(run), _load(there)
    here, other = (program.mlir_module().count("scatter") for program in programs)
    assert other < here
    images = whole(run.config, 3)
    np.testing.assert_allclose(jax.jit(programs[1].call)(images), expected(run, images), atol=1e-4)


def _load(run):
    return export.deserialize(bytearray((run.workdir / "export/pyramid.stablehlo").read_bytes()))


def test_the_signature_is_that_of_the_program(exported):
    for run in map(exported, ("D", "differences")):
        signature = json.loads((run.workdir / "export" / "signature.json").read_text())
        program = _load(run)
        ((inputs,), _) = jax.tree.unflatten(program.in_tree, program.in_avals)
        assert [entry["name"] for entry in signature["inputs"]] == sorted(inputs)
        for entry, aval in zip(signature["inputs"], program.in_avals, strict=True):
            assert entry["shape"] == [s if isinstance(s, int) else str(s) for s in aval.shape]
            assert entry["dtype"] == str(aval.dtype)
        (answer,) = program.out_avals
        assert signature["output"]["shape"] == ["b", len(signature["classes"])]
        assert [str(size) for size in answer.shape] == ["b", "2"]
        assert signature["classes"] == DATASET["classes"]
        assert signature["dataset"] == {"name": "none", "digest": "0123"}
        assert signature["step"] == 3
        assert tuple(signature["platforms"]) == program.platforms


def test_images_of_another_size_are_refused(exported):
    run = exported("spatial")
    with pytest.raises(ValueError, match="30"):
        _load(run).call({"rgb": np.zeros((1, HEIGHT + 1, WIDTH, 3), np.uint8)})


@pytest.mark.parametrize(
    ("size", "crop"),
    [((256, 340), 224), ((256, 340), 112), ((72, 72), 64), ((30, 40), 224), ((31, 17), 1)],
)
def test_views_are_those_of_evaluation_to_the_byte(size, crop):
    rng = np.random.default_rng(crop)
    images = rng.integers(0, 256, (2, *size, 3), np.uint8)
    images[1] = 255
    (view,) = augment.test_views(size, 0.875, 1)
    seen = np.asarray(jax.jit(lambda x: cut(x, view, crop))(images))
    np.testing.assert_array_equal(seen, centre_views(images, crop, 0.875))


def test_a_workdir_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config.json: no such file"):
        export_model(tmp_path)
    run = trained(tmp_path / "run", "spatial")
    (run.workdir / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="no checkpoint; train first"):
        export_model(run.workdir)
    assert not (run.workdir / "export").exists()


@pytest.mark.parametrize("key", DATASET)
def test_a_record_that_lacks_a_fact_of_the_data_set_is_refused(key, tmp_path):
    run = trained(tmp_path / "run", "spatial")
    path = run.workdir / "config.json"
    record = json.loads(path.read_text())
    del record["dataset"][key]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"of another version \(dataset lacks {key}\)$"):
        export_model(run.workdir)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    run = trained(tmp_path / "run", "spatial")
    (run.workdir / "export").write_text("mine")
    with pytest.raises(ValueError, match=r"run/export: is a file"):
        export_model(run.workdir)
    assert (run.workdir / "export").read_text() == "mine"


def test_whatever_tensorflow_says_the_program_is_there(tmp_path, monkeypatch, capsys):
    run = trained(tmp_path / "run", "spatial")

    def failing(folder, program, inputs):
        folder.mkdir(parents=True)
        raise RuntimeError("no\nway")

    monkeypatch.setattr(exporting, "_write_saved_model", failing)
    paths = export_model(run.workdir)
    assert [path.name for path in paths] == ["pyramid.stablehlo", "signature.json"]
    assert "no SavedModel, which TensorFlow writes (RuntimeError: no way)\n" in (
        capsys.readouterr().err
    )
    assert {path.name for path in paths[0].parent.iterdir()} == {path.name for path in paths}


def test_a_second_export_leaves_nothing_of_the_first(tmp_path, capsys):
    run = trained(tmp_path / "run", "spatial")
    old = run.workdir / "export" / "saved_model" / "1"
    old.mkdir(parents=True)
    (run.workdir / "export" / "pyramid.stablehlo").write_text("old")
    paths = export_model(run.workdir)
    assert all(path.exists() for path in paths)
    assert _load(run).platforms == ("cpu", "cuda", "tpu")
    assert old.exists() == ("SavedModel" not in capsys.readouterr().err)
    assert not list(run.workdir.glob("export/.*.part"))


def test_it_tells_nothing_of_the_machine(exported):
    content = (exported("D").workdir / "export" / "pyramid.stablehlo").read_bytes()
    assert b"pyramid.py" in content  # for errors and profiles
    for folder in (ROOT, sys.prefix, exported("D").workdir):
        assert str(folder).encode() not in content


def test_the_documents_program_runs_as_it_stands(exported, tmp_path):
    """Each block of docs/export.md, in one process, beside the folder that it names."""
    text = (ROOT / "docs" / "export.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    (tmp_path / "ckpt").symlink_to(exported("D").workdir)
    said = elsewhere(ALONE + "\n".join(blocks), tmp_path)
    assert DATASET["classes"][0] in said


@pytest.mark.slow
def test_tensorflow_serves_the_same_answers(tmp_path):
    pytest.importorskip("tensorflow")
    run = trained(tmp_path / "run", "D")
    write = "import sys; from pathlib import Path; from stpyramid_jax.export import export_model; "
    write += "print(export_model(Path(sys.argv[1]))[-1])"
    command = [sys.executable, "-c", write, str(run.workdir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1:] == [str(run.workdir / "export/saved_model/1")], done.stderr
    for rows in (1, 3):
        np.savez(tmp_path / f"asked{rows}.npz", **whole(run.config, rows))
    serve = f"""{ALONE}
sys.modules["jax"] = None
import numpy as np, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
for rows in (1, 3):
    asked = dict(np.load(f"asked{{rows}}.npz"))
    (answer,) = serve(**{{name: tf.constant(x) for name, x in asked.items()}}).values()
    np.save(f"asked{{rows}}.npy", answer)
"""
    command = [sys.executable, "-I", "-c", serve, str(run.workdir / "export/saved_model/1")]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    for rows in (1, 3):
        wanted = expected(run, whole(run.config, rows))
        np.testing.assert_allclose(np.load(tmp_path / f"asked{rows}.npy"), wanted, atol=2e-5)
