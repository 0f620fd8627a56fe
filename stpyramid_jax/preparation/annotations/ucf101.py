"""The official lists of UCF101: three splits into train and test."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from stpyramid_jax.preparation.annotations.checks import checked
from stpyramid_jax.preparation.annotations.listing import (
    Annotations,
    ListedVideo,
    There,
    choose,
    group_of,
    refuse,
    rows,
    unknown,
)


def read_ucf101(
    annotations: Path,
    videos: Path,
    classes: Sequence[str] = (),
    missing: str = "fail",
    there: There | None = None,
) -> Annotations:
    """Reads `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`, N = 1, 2, 3.

    The class of a video is its folder: `HandstandPushups` holds `v_HandStandPushups_*`. Its group
    is `<Class>_gNN`. Videos are ordered by class, then by path.

    Args:
      annotations: folder of the official lists.
      videos: folder that holds `<Class>/<video>.avi`.
      classes: only these; labels then count them in the order of `classInd.txt`, whatever order
        they are given in.
      missing: "fail" refuses a list with videos that are not on disk, "skip" leaves them out.
      there: whether the video of a path is there; by default, whether `videos` holds that file.

    Raises:
      ValueError: one line for every list that is missing, line that cannot be read, unknown class,
        video that is not on disk, duplicate, and group on both sides of a split.
    """
    splits = ("split1", "split2", "split3")
    lists = {
        (split, part): annotations / f"{part}list0{number}.txt"
        for number, split in enumerate(splits, 1)
        for part in ("train", "test")
    }
    index = annotations / "classInd.txt"
    refuse(
        f"{path}: no such list; --annotations takes the folder of the official UCF101 lists"
        for path in (index, *lists.values())
        if not path.is_file()
    )
    numbered = rows(index, r"(\d+)\s+(\S.*)", "NUMBER CLASS")
    known = {name: number for number, name in numbered}
    if not known:
        raise ValueError(f"{index}: empty; expected a line NUMBER CLASS for each class")
    chosen = choose(known, classes)

    faults = []
    if len(known) < len(numbered):
        faults.append(f"{index}: {len(numbered)} lines, but only {len(known)} different classes")
    parts = defaultdict(lambda: [""] * len(splits))
    video_line = r"(([^/]+)/[^/]+\.\w+)"
    forms = {
        "train": (rf"{video_line}\s+(\d+)", "CLASS/VIDEO NUMBER"),
        "test": (rf"{video_line}()", "CLASS/VIDEO"),
    }
    for (split, part), path in lists.items():
        for video, folder, number in rows(path, *forms[part]):
            column = splits.index(split)
            if folder not in known:
                faults.append(f"{path.name}: {video}: {unknown(folder, known)}")
            elif folder in chosen:
                if number and number != known[folder]:
                    faults.append(
                        f"{path.name}: {video}: label {number}, but classInd.txt gives "
                        f"{folder} {known[folder]}"
                    )
                if parts[video][column]:
                    faults.append(f"{path.name}: {video}: listed twice in {split}")
                parts[video][column] = part
    if not parts:
        faults.append(f"{annotations}: the lists hold no video of {', '.join(chosen)}")

    found = tuple(
        ListedVideo(
            name=Path(path).stem,
            path=path,
            class_name=folder,
            label=chosen.index(folder),
            group=group_of(path, folder),
            splits=tuple(columns),
        )
        for path, columns in parts.items()
        for folder in (path.partition("/")[0],)
    )
    # A score on some classes must not pass for one on all of them.
    name = "ucf101" if len(chosen) == len(known) else f"ucf101-{len(chosen)}-classes"
    return checked(Annotations(name, chosen, splits, found), videos, missing, there, faults)
