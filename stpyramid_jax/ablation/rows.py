"""The rows of the paper's three ablation tables, as points of the model's space."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      name: of its runs' folder.
      label: what the table calls it.
      paper: its accuracy in % in the paper: UCF101 with BN-Inception (the authors' slides).
      model: every field of `ModelConfig` in which rows differ.
    """

    name: str
    label: str
    paper: float
    model: Mapping[str, object]


def _row(
    name: str,
    label: str,
    paper: float,
    streams: str,
    snippets: int = 1,
    temporal_fusion: str = "stcb",
    attention: bool = False,
    stream_fusion: str = "score",
) -> Row:
    fields = {
        "streams": streams,
        "snippets": snippets,
        "temporal_fusion": temporal_fusion,
        "attention": attention,
        "stream_fusion": stream_fusion,
    }
    return Row(name, label, paper, fields)


TABLES: Mapping[str, tuple[Row, ...]] = {
    "Flow alone: fusion of snippets (level 1)": (
        _row("temporal", "1 snippet", 87.0, "temporal"),
        _row("sum3", "3, sum", 87.9, "temporal", 3, "sum"),
        _row("concat3", "3, concatenation", 88.4, "temporal", 3, "concat"),
        _row("stcb3", "3, STCB", 89.3, "temporal", 3),
        _row("sum5", "5, sum", 87.7, "temporal", 5, "sum"),
        _row("concat5", "5, concatenation", 88.5, "temporal", 5, "concat"),
        _row("stcb5", "5, STCB", 89.2, "temporal", 5),
    ),
    "Frames alone: pooling (level 2)": (
        _row("spatial", "average", 84.5, "spatial"),
        _row("attend1", "attention, 1 snippet guides", 84.3, "spatial", attention=True),
        _row(
            "attend_concat3",
            "attention, 3, concatenation",
            83.9,
            "spatial",
            3,
            "concat",
            attention=True,
        ),
        _row("attend_stcb3", "attention, 3, STCB", 86.6, "spatial", 3, attention=True),
    ),
    "Both: levels of the pyramid": (
        _row("A", "A: scores", 91.7, "both"),
        _row("B", "B: features by STCB", 93.2, "both", stream_fusion="stcb"),
        _row("C", "C: and 3 snippets", 93.6, "both", 3, stream_fusion="stcb"),
        _row("D", "D: and attention", 94.6, "both", 3, attention=True, stream_fusion="stcb"),
    ),
}

ROWS = {row.name: row for table in TABLES.values() for row in table}


def choose_rows(names: Sequence[str]) -> tuple[Row, ...]:
    """Rows by name, in the order of the tables; all where none is named.

    Raises:
      ValueError: unknown names, a line for each.
    """
    lines = []
    for name in dict.fromkeys(names):
        if name not in ROWS:
            near = difflib.get_close_matches(name, ROWS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            lines.append(f"row {name!r}: one of {', '.join(ROWS)}{hint}")
    if lines:
        raise ValueError("\n".join(lines))
    return tuple(row for row in ROWS.values() if row.name in names or not names)


def choose_seeds(texts: Sequence[str]) -> tuple[int, ...]:
    """Seeds from their texts, each once.

    Raises:
      ValueError: there is none, or one is no number of up to nine digits, a line for each.
    """
    wrong = [text for text in texts if not re.fullmatch("[0-9]{1,9}", text)]
    if wrong or not texts:
        lines = [f"seed {text!r}: numbers of up to nine digits, as in 0,1,2" for text in wrong]
        raise ValueError("\n".join(lines) or "no seed; give some, as in 0,1,2")
    return tuple(dict.fromkeys(int(text) for text in texts))
