"""The official lists of HMDB51: three splits into train and test."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from stpyramid_jax.preparation.annotations.checks import checked
from stpyramid_jax.preparation.annotations.listing import (
    Annotations,
    ListedVideo,
    There,
    choose,
    refuse,
    rows,
    stem_of,
)

CLASSES = 51
PARTS = {"0": "", "1": "train", "2": "test"}


def read_hmdb51(
    annotations: Path,
    videos: Path,
    classes: Sequence[str] = (),
    missing: str = "fail",
    there: There | None = None,
) -> Annotations:
    """Reads `<class>_test_splitN.txt`, N = 1, 2, 3: a line `NAME.avi PART` for each clip.

    In a split a clip is in train (1), in test (2) or in neither (0). The lists hold 6766 clips in
    51 classes: 3570 of train and 1530 of test in each split, 70 and 30 of each class. The 395 that
    are 0 in every split are listed too, so that what is prepared is all that the lists hold.
    Classes are in alphabetical order. Videos are ordered by class, then by path.

    A clip is `<recording>_<class>_<tags>_<number>.avi`, with tags such as `f_cm_np1_le_med` for
    the body seen, the camera, persons, view and quality. Its group is `<class>/<recording>`, which
    the official splits never part, or the clip itself where it is named otherwise. Clips of one
    recording but of two classes are parted (217 recordings), as the lists have it.

    Args:
      annotations: folder of the official lists.
      videos: folder that holds `<class>/NAME.avi`.
      classes, missing, there: as in `read_ucf101`; labels count `classes` in alphabetical order.

    Raises:
      ValueError: one line for every list that is missing, line that cannot be read, unknown class,
        clip that a list lacks or holds twice, video that is not on disk, and group on both sides
        of a split.
    """
    splits = ("split1", "split2", "split3")
    known = sorted(
        {
            path.name[: -len("_test_splitN.txt")]
            for path in annotations.glob("[!.]*_test_split[123].txt")
        }
    )
    if not known:
        raise ValueError(
            f"{annotations}: holds no list <class>_test_split1.txt; --annotations takes the folder "
            "of the official HMDB51 lists, testTrainMulti_7030_splits"
        )
    chosen = choose(known, classes)
    lists = {
        (name, split): annotations / f"{name}_test_{split}.txt"
        for name in chosen
        for split in splits
    }
    refuse(f"{path}: no such list" for path in lists.values() if not path.is_file())

    faults = []
    parts: dict[tuple[str, str], list[str | None]] = defaultdict(lambda: [None] * len(splits))
    for (name, split), path in lists.items():
        for file, number in rows(path, r"([^/]+\.\w+)\s+([012])", "VIDEO 0, 1 or 2"):
            columns, column = parts[name, file], splits.index(split)
            if columns[column] is not None:
                faults.append(f"{path}: {file}: listed twice")
            columns[column] = PARTS[number]
    faults += [
        f"{lists[name, split]}: has no line for {file}, which other lists of {name} hold"
        for (name, file), columns in parts.items()
        for split, part in zip(splits, columns, strict=True)
        if part is None
    ]
    if not parts:
        faults.append(f"{annotations}: the lists hold no video of {', '.join(chosen)}")
    found = tuple(
        ListedVideo(
            name=stem_of(file),
            path=f"{name}/{file}",
            class_name=name,
            label=chosen.index(name),
            group=_group(name, stem_of(file)),
            splits=tuple(part or "" for part in columns),
        )
        for (name, file), columns in parts.items()
    )
    # A score on some classes must not pass for one on all of them.
    name = "hmdb51" if len(chosen) == CLASSES else f"hmdb51-{len(chosen)}-classes"
    return checked(Annotations(name, chosen, splits, found), videos, missing, there, faults)


def _group(class_name: str, clip: str) -> str:
    form = rf"(.+)_{re.escape(class_name)}(?:_[a-z]+){{2}}_np\d+(?:_[a-z]+){{2}}_\d+"
    match = re.fullmatch(form, clip)
    return f"{class_name}/{match[1] if match else clip}"
