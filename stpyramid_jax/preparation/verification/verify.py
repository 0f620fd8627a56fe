"""`--verify`: a prepared folder inspected, and told about."""

import sys
from collections.abc import Mapping
from pathlib import Path

from stpyramid_jax.preparation.verification.audit import Tally
from stpyramid_jax.preparation.verification.contact import contact_sheet
from stpyramid_jax.preparation.verification.inspection import inspect


def verify(folder: Path) -> bool:
    """Prints what a prepared folder holds, and draws a sheet of pictures; True if all is sound.

    Otherwise each problem is a line on stderr, and no picture is drawn.
    """
    report = inspect(folder)
    for problem in report.problems:
        print(f"error: {problem}", file=sys.stderr)
    if report.tallies:
        print(table(report.tallies))
    if report.problems:
        return False
    try:
        print(f"{folder}: sound; for a look at it: {contact_sheet(folder)}")
    except OSError as error:  # data that many share are often not to be written to
        print(f"{folder}: sound; no pictures, contact.png cannot be written: {error.strerror}")
    return True


def table(tallies: Mapping[str, Tally]) -> str:
    """A line for each family; of flow the mean length, and the shares clipped and static."""
    lines = ["family   records        MB  decoded   length  clipped  static"]
    for family, tally in tallies.items():
        line = f"{family:<7}{tally.records:>9}{tally.bytes / 1e6:>10.1f}{tally.decoded:>9}"
        if family != "rgb" and tally.decoded:
            sums = (tally.length, tally.clipped, tally.static)
            length, clipped, static = (total / tally.decoded for total in sums)
            line += f"{length:>6.2f} px{clipped:>9.2%}{static:>8.1%}"
        lines.append(line)
    return "\n".join(lines)
