"""The blocks of docs/library.md, which are the programs of its tests."""

import re

from tests.conftest import ROOT


def blocks() -> tuple[list[str], list[str]]:
    """Those that need no extra, and those after the heading from which on all do."""
    text = (ROOT / "docs" / "library.md").read_text()
    core, heading, rest = text.partition("\n## Training and evaluation")
    assert heading
    found = tuple(re.findall(r"```python\n(.*?)```", part, re.DOTALL) for part in (core, rest))
    assert all(found)
    return found
