"""A folder of own videos, a subfolder for each class."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from stpyramid_jax.preparation.annotations.checks import checked
from stpyramid_jax.preparation.annotations.listing import (
    VIDEO_SUFFIXES,
    Annotations,
    ListedVideo,
    choose,
    file_name,
    group_of,
    stem_of,
    unknown,
)
from stpyramid_jax.preparation.annotations.split import TEST_RATIO, split_as_told, split_groups


def read_folder(
    videos: Path,
    classes: Sequence[str] = (),
    test_ratio: float | None = None,
    split: Path | None = None,
) -> Annotations:
    """Lists a folder of own videos, with one split, `split1`, or those of a CSV.

    With folders `train` and `test`, each holding `<Class>/<video>`, the split is theirs. Otherwise
    the folder holds `<Class>/<video>`, and the split is that of the CSV `split` or, without one,
    made over groups, since clips cut from one recording are near-duplicates: `<Class>_gNN` where
    the file name holds `_gNN_`, else the video itself. That depends on their names alone
    (`split_groups`).

    A video's name is its path without suffix. Files without a suffix of video and hidden ones are
    passed over; videos that are not directly in a class folder are refused.
    Classes are in alphabetical order; `classes` keeps only these, in the same order.

    Args:
      videos: the folder.
      classes: only these.
      test_ratio: share of the groups that is the test part, between 0 and 1; by default a quarter.
      split: a CSV with the columns path, split (or split1, split2, ...), and group if there are
        groups; as in `read_table`, without labels. It has a row for every video.

    Raises:
      ValueError: two splits are given, or one line for every unknown or empty class, video
        elsewhere, video or row of `split` without the other, name that cannot be stored, duplicate
        name, and group on both sides of the split.
    """
    parts = _parts(videos)
    _check(videos, parts, test_ratio, split)
    folders = {
        (part, folder.name): folder
        for part in parts
        for folder in sorted((videos / part).iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if not folders:
        raise ValueError(
            f"{videos}: no class folders; lay videos out as <Class>/<video> or "
            "train/<Class>/<video> and test/<Class>/<video>"
        )
    known = sorted({name for part, name in folders if part != "test"})
    chosen = choose(known, classes)

    found = []
    loose = [file for part in parts for file in _videos((videos / part).iterdir())]
    faults = [f"{file}: not in a class folder" for file in loose]
    for (part, name), folder in folders.items():
        if name not in known:
            faults.append(f"{folder}: {unknown(name, known)} of train")
        elif name in chosen:
            files = _videos(folder.rglob("*"))
            deep = [file for file in files if file.parent != folder]
            faults += [f"{file}: in a subfolder; put it into {folder}" for file in deep]
            if not files:
                faults.append(f"{folder}: holds no videos")
            for file in files:
                path = file.relative_to(videos).as_posix()
                group = group_of(path, name)
                label = chosen.index(name)
                found.append(ListedVideo(stem_of(path), path, name, label, group, (part,)))
    splits = ("split1",)
    if split:
        splits, found, more = split_as_told(split, found, set(known) - set(chosen))
        faults += more
    elif not any(parts):
        found = split_groups(found, TEST_RATIO if test_ratio is None else test_ratio)
    listed = Annotations(file_name(videos.resolve().name), chosen, splits, tuple(found))
    return checked(listed, videos, there=lambda path: True, faults=faults)


def _parts(videos: Path) -> tuple[str, ...]:
    parts = tuple(part for part in ("train", "test") if (videos / part).is_dir()) or ("",)
    if len(parts) == 1 and parts[0]:
        other = "test" if parts[0] == "train" else "train"
        raise ValueError(
            f"{videos}: holds {parts[0]} but no {other}; add {videos / other}/<Class>/<video>, or "
            f"lay videos out as <Class>/<video>, where no class may be called {parts[0]}"
        )
    return parts


def _check(
    videos: Path, parts: Sequence[str], test_ratio: float | None, split: Path | None
) -> None:
    given = [
        *(["the folders train and test"] if any(parts) else []),
        *([f"--annotations={split}"] if split else []),
        *([f"--test_ratio={test_ratio:g}"] if test_ratio is not None else []),
    ]
    if len(given) > 1:
        raise ValueError(f"{videos}: {' and '.join(given)} each give a split; keep one")
    if test_ratio is not None and not 0 < test_ratio < 1:
        raise ValueError(f"--test_ratio={test_ratio:g}: not between 0 and 1")


def _videos(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
    )
