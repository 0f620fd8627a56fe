"""The notebooks: whole, kept with what they gave, and run again from top to bottom."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, load

FOLDER = ROOT / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
ADDRESS = "https://github.com/stpyramid-jax/stpyramid_jax"
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/stpyramid-jax/stpyramid_jax/blob/main/notebooks/"
)
PLACE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|mnt|private|var|Users)/\S*")
MEGABYTES = 1.5

# Sizes of the notebooks as tests run them: what is learnt, other tests see to.
SMALLER = {
    "quickstart.ipynb": {
        '{"train": 40, "test": 10} if ON_CPU': '{"train": 5, "test": 3} if ON_CPU',
        "STEPS = 120 if ON_CPU": "STEPS = 20 if ON_CPU",
    },
    "explore.ipynb": {
        "--train=40 --test=10": "--train=5 --test=3",
        "training.steps=200 '--config.optimizer.boundaries=(150,)'": "training.steps=20",
        "shards.videos[clip].frames, 60": "shards.videos[clip].frames, 24",
    },
    "stcb.ipynb": {"steps: int = 150": "steps: int = 10"},
    "train_ucf101_tpu.ipynb": {
        'steps=80", "--config.optimizer.boundaries=(60,)': "steps=30",
    },
}


def read(name: str):
    return nbformat.read(FOLDER / name, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kept(notebook):
    return [output for cell in code(notebook) for output in cell.outputs]


def text_of(output) -> str:
    texts = [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join([output.get("text", ""), *texts])


def test_the_table_has_every_notebook():
    text = (FOLDER / "README.md").read_text()
    assert sorted(set(re.findall(r"\]\((\w+\.ipynb)\)", text))) == NAMES
    assert set(re.findall(r"notebooks/(\w+\.ipynb)\)", text)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_and_opens_in_colab(name):
    notebook = read(name)
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert f"{BADGE}{name})" in first.source


@pytest.mark.parametrize("name", NAMES)
def test_begins_by_installing_and_finding_the_accelerator(name):
    """Each with the same cell, which works in this checkout and in Colab."""
    first = code(read(name))[0]
    for part in (
        f"git clone --quiet --depth=1 {ADDRESS} ",
        "%pip install",
        "[train,prepare,report]",
    ):
        assert part in first.source
    assert first.source == code(read(NAMES[0]))[0].source
    assert "cpu: 1 x" in "".join(map(text_of, first.outputs))


@pytest.mark.parametrize("name", NAMES)
def test_keeps_what_its_cells_gave(name):
    notebook = read(name)
    assert [cell.execution_count for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)]
    kinds = [output.output_type for output in kept(notebook)]
    assert "error" not in kinds
    assert any("image/png" in output.get("data", {}) for output in kept(notebook))
    assert not any("execution" in cell.metadata for cell in notebook.cells)


@pytest.mark.parametrize("name", NAMES)
def test_names_no_place_of_a_machine_and_is_small(name):
    notebook = read(name)
    texts = [cell.source for cell in notebook.cells] + list(map(text_of, kept(notebook)))
    assert [found for text in texts for found in PLACE.findall(text)] == []
    assert (FOLDER / name).stat().st_size < MEGABYTES * 1e6


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    """To files here, be it by name or by their public address."""
    texts = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    targets = re.findall(r"\]\(([^)#\s]+)", "\n".join(texts))
    public = [target for target in targets if target.startswith(f"{ADDRESS}/blob/main/")]
    near = [target for target in targets if "://" not in target]
    found = [ROOT / target.removeprefix(f"{ADDRESS}/blob/main/") for target in public]
    found += [FOLDER / target for target in near]
    assert [path for path in found if not path.exists()] == []


@pytest.fixture(scope="module")
def execute():
    return load("notebooks/execute.py")


def write(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def run_notebook(path: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(FOLDER / "execute.py"), str(path)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


def test_outputs_are_cleaned_and_nothing_else_is_left(tmp_path):
    path = write(
        tmp_path / "with space ü.ipynb",
        "import sys, warnings; from pathlib import Path\nPath('left').write_text('behind')\n"
        "print(sys.executable == "
        + repr(sys.executable)
        + ", len([*Path.cwd().parent.glob('*.ipynb')]))",
        "print('1 of 2\\r2 of 2\\n\\x1b[31mred\\x1b[0m'); print(" + repr(f"{ROOT}/main.py") + ")",
        "warnings.warn('a warning', stacklevel=1)",
        "import matplotlib.pyplot as plt; plt.imshow([[0, 1]]); plt.show()",
        "import jax; jax.default_backend()",
    )
    result = run_notebook(path)
    assert result.returncode == 0, result.stderr
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    place, lines, warning, picture, backend = code(nbformat.read(path, as_version=4))
    assert text_of(place.outputs[0]) == "True 1\n"
    assert text_of(lines.outputs[0]) == "2 of 2\nred\nmain.py\n"
    assert text_of(warning.outputs[0]).startswith("<cell>:1: UserWarning: a warning")
    assert picture.outputs[0].data["image/png"]
    assert backend.outputs[0].data["text/plain"] == "'cpu'"
    written = json.loads(path.read_text())
    assert written["metadata"] == load("notebooks/execute.py").METADATA
    assert not any(cell["metadata"] for cell in written["cells"])


def test_a_notebook_that_fails_stays_as_it_was(tmp_path):
    path = write(tmp_path / "fails.ipynb", "print('so far')", "1 / 0")
    before = path.read_bytes()
    result = run_notebook(path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {path}: ")
    assert "ZeroDivisionError" in result.stderr
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_a_file_that_is_no_notebook(tmp_path):
    (tmp_path / "text.ipynb").write_text("not a notebook")
    for path, reason in (
        (tmp_path / "text.ipynb", "not a notebook"),
        (tmp_path / "no.ipynb", "No such"),
    ):
        result = run_notebook(path)
        assert result.returncode == 1
        assert result.stderr.startswith(f"error: {path}: ")
        assert reason in result.stderr
        assert "Traceback" not in result.stderr


def test_small_pictures(execute):
    """Few colours are kept as they are; many become 256, where that saves bytes."""
    rng = np.random.default_rng(0)
    few = rng.choice([0, 90, 255], size=(64, 64, 1)).repeat(3, axis=2).astype(np.uint8)
    ramp = np.linspace(0, 255, 128 * 128 * 3).reshape(128, 128, 3).astype(np.uint8)
    for pixels, error in ((few, 0), (ramp, 16)):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png", compress_level=0)
        small = execute.small_png(file.getvalue())
        assert len(small) < len(file.getvalue())
        again = np.asarray(Image.open(io.BytesIO(small)).convert("RGB"))
        assert np.abs(again.astype(int) - pixels).max() <= error
        assert execute.small_png(small) == small or len(execute.small_png(small)) < len(small)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs_from_top_to_bottom(name, tmp_path, compiled):
    """A copy beside the programs, as in a fresh clone."""
    (tmp_path / "notebooks").mkdir()
    for part in ("main.py", "configs", "data"):
        (tmp_path / part).symlink_to(ROOT / part)
    path = tmp_path / "notebooks" / name
    smaller = read(name)
    for found, less in SMALLER.get(name, {}).items():
        (cell,) = (cell for cell in code(smaller) if found in cell.source)
        cell.source = cell.source.replace(found, less)
    nbformat.write(smaller, path)
    result = run_notebook(path, **compiled)
    assert result.returncode == 0, result.stderr
    notebook = nbformat.read(path, as_version=4)
    before = {cell.id: {o.output_type for o in cell.outputs} for cell in code(read(name))}
    after = {cell.id: {o.output_type for o in cell.outputs} for cell in code(notebook)}
    assert {k: v - {"stream"} for k, v in after.items()} == {
        k: v - {"stream"} for k, v in before.items()
    }
    for output in kept(notebook):
        for kind, value in output.get("data", {}).items():
            if kind == "image/png":
                assert np.asarray(Image.open(io.BytesIO(base64.b64decode(value)))).std() > 0
