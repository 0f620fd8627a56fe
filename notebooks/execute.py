"""Runs notebooks from top to bottom on CPU and keeps what their cells gave.

    python notebooks/execute.py
    python notebooks/execute.py notebooks/quickstart.ipynb notebooks/stcb.ipynb

Each runs in an empty folder beside it, which is removed afterwards, by this very Python. What says
only when and where it ran is left out, terminal output is kept as it looked at the end, and
pictures have 256 colours. A notebook that fails stays as it was.
"""

import argparse
import base64
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat.reader import NotJSONError
from PIL import Image

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

SECONDS = 600
"""The longest that a cell may take."""

FAILURES = (
    OSError,
    NotJSONError,
    nbformat.ValidationError,
    CellExecutionError,
    CellTimeoutError,
    DeadKernelError,
)

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and cursor moves of a terminal
_CELL = re.compile(r"\S*ipykernel_\d+/\d+\.py")  # the file that a warning of a cell names


def run(path: Path) -> Any:
    """The notebook with the outputs of its cells.

    Raises:
      CellExecutionError, CellTimeoutError, DeadKernelError: a cell failed.
    """
    notebook: Any = nbformat.read(path, as_version=4)
    path = path.resolve()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".run-") as place:
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "COLUMNS": "120",  # of the programs' lines
            "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment
            "IPYTHONDIR": place,
        }
        environment.pop("MPLBACKEND", None)  # pictures go into the notebook
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": place}},
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            _clean(output)
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def _clean(output: Any) -> None:
    """Leaves out of one output what belongs to this run and this machine, in place."""
    output.pop("transient", None)
    if "text" in output:
        output.text = clean_text(output.text)
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            output.data[kind] = clean_text(value)
        elif kind == "image/png":
            output.data[kind] = base64.b64encode(small_png(base64.b64decode(value))).decode()


def clean_text(text: str) -> str:
    """Text without control codes, overwritten lines and the places of this machine."""
    text = _CONTROL.sub("", text).replace("\r\n", "\n")
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    text = _CELL.sub("<cell>", text)
    return text.replace(f"{ROOT}/", "").replace(f"{Path.home()}/", "~/")


def small_png(picture: bytes) -> bytes:
    """A PNG of at most 256 colours where that makes it smaller."""
    image, small = Image.open(io.BytesIO(picture)).convert("RGB"), io.BytesIO()
    image.quantize(256).save(small, "png", optimize=True)
    return min(picture, small.getvalue(), key=len)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "notebooks", type=Path, nargs="*", help="files, run in this order; all of this folder"
    )
    for path in parser.parse_args().notebooks or sorted(FOLDER.glob("*.ipynb")):
        began = time.monotonic()
        try:
            notebook = run(path)
        except FAILURES as error:
            print(f"error: {path}: {_CONTROL.sub('', str(error))}", file=sys.stderr)
            return 1
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1e6
        print(f"{path}: {time.monotonic() - began:.0f} s, {size:.2f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
