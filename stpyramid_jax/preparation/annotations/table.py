"""A table of own videos: a CSV that names the class of each and the part it is in."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stpyramid_jax.preparation.annotations.checks import checked
from stpyramid_jax.preparation.annotations.listing import (
    Annotations,
    ListedVideo,
    There,
    choose,
    composed,
    file_name,
    group_of,
    refuse,
    stem_of,
    text_of,
)


@dataclass(frozen=True)
class Row:
    """One row of a table; `where` is its file and line, `group` may be empty."""

    where: str
    path: str
    label: str
    group: str
    splits: tuple[str, ...]


def read_table(
    table: Path,
    videos: Path,
    classes: Sequence[str] = (),
    missing: str = "fail",
    there: There | None = None,
) -> Annotations:
    """Reads a CSV with the columns path, label, split, and group if there are groups.

    `path` is relative to `videos`, `label` is the name of the class, `split` is train or test.
    Columns split1, split2, ... instead of split give several splits, where an empty cell means
    neither. Videos of one group are near-duplicates, which no split may part; without a group it
    is `<label>_gNN` where the file name holds `_gNN_`, else the video itself.

    Classes are in alphabetical order (of their characters' code points), whatever the order of the
    rows. Videos are ordered by class, then by path; a video's name is its path without suffix.

    Args:
      table: the CSV, in UTF-8 with or without a byte order mark. Blanks around cells other than
        paths do not count.
      videos: folder that the paths begin from.
      classes, missing, there: as in `read_ucf101`; labels count `classes` in alphabetical order.

    Raises:
      ValueError: one line for every row that cannot be read, unknown class of `classes`, video
        that is not on disk, duplicate, and group on both sides of a split.
    """
    splits, found = table_rows(table, ("path", "label"))
    chosen = choose(sorted({row.label for row in found}), classes)
    labels = {name: label for label, name in enumerate(chosen)}
    listed = tuple(
        ListedVideo(
            name=stem_of(row.path),
            path=row.path,
            class_name=row.label,
            label=labels[row.label],
            group=row.group or group_of(row.path, row.label),
            splits=row.splits,
        )
        for row in found
        if row.label in labels
    )
    return checked(
        Annotations(file_name(table.stem), chosen, splits, listed), videos, missing, there
    )


def table_rows(table: Path, needed: Sequence[str]) -> tuple[tuple[str, ...], list[Row]]:
    """Names of the splits of a CSV, and its rows; `needed` are the columns beside the splits.

    Raises:
      ValueError: it is not such a CSV, holds no rows, or one line for every row that is malformed.
    """
    header, records = _records(table)
    columns = sorted(name for name in header if re.fullmatch(r"split\d*", name))
    several = columns != ["split"]
    splits = tuple(f"split{number}" for number in range(1, len(columns) + 1))
    expected = [*needed, *(sorted(splits) if several and columns else ["split"])]
    if sorted(header) not in (sorted(expected), sorted([*expected, "group"])):
        raise ValueError(
            f"{table}: the columns are {','.join(header)!r}; expected {','.join(needed)},split "
            "or split1,split2,... in its place, and group if there are groups"
        )
    allowed = ("train", "test", "") if several else ("train", "test")

    faults, found, lines = [], [], {}
    for line, cells in records:
        where = f"{table}, line {line}"
        if len(cells) != len(header):
            faults.append(f"{where}: {len(cells)} cells under {len(header)} columns")
            continue
        row = dict(zip(header, cells, strict=True))
        path = PurePosixPath(row["path"]).as_posix()
        parts = tuple(row[name].strip() for name in (splits if several else columns))
        faults += [f"{where}: no {name}" for name in needed if not row[name].strip()]
        faults += [
            f"{where}: {part!r} is not train or test{' or empty' if several else ''}"
            for part in parts
            if part not in allowed
        ]
        first = lines.setdefault(composed(path), line)
        if first != line and row["path"]:
            faults.append(f"{where}: {path} is in line {first} already")
        label, group = (row.get(name, "").strip() for name in ("label", "group"))
        found.append(Row(where, path, label, group, parts))
    refuse(faults)
    return splits, found


def _records(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV, and the line and the cells of every row that is not blank."""
    if not table.is_file():
        raise ValueError(f"{table}: no such file")
    reader = csv.reader(io.StringIO(text_of(table), newline=""), strict=True)
    records, line = [], 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{table}, line {line}: {error}") from None
    if len(records) < 2:
        raise ValueError(f"{table}: holds no videos; expected a header and a row for each video")
    return [cell.strip() for cell in records[0][1]], records[1:]
