"""Prepares videos for training: decodes, computes optical flow, writes shards.

    python data/prepare.py --dataset=ucf101 --videos=UCF-101 --annotations=ucfTrainTestlist \
        --out=shards/ucf101
    python data/prepare.py --dataset=folder --videos=clips --out=shards/clips
    python data/prepare.py --verify --out=shards/clips

The same command again continues an interrupted preparation. See data/README.md.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

try:
    from stpyramid_jax.extras import extra
except ModuleNotFoundError as missing:
    sys.exit(
        f"error: {missing.name} is not installed for {sys.executable}: source .venv/bin/activate, "
        "or pip install -e '.[all]' (README.md)"
    )
try:
    with extra("prepare"):
        from stpyramid_jax.preparation.choices import WORDS, Choices
        from stpyramid_jax.preparation.run import prepare
        from stpyramid_jax.preparation.sources.download import download_ucf101, ucf101_folders
        from stpyramid_jax.preparation.verification.verify import verify
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing}")


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 340x256")
    return int(match[1]), int(match[2])


def folders(text: str) -> list[Path]:
    if not all(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: an empty name between commas")
    return [Path(part) for part in text.split(",")]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", required=True, type=Path, help="folder to write, or to verify")
    add("--verify", action="store_true", help="check a prepared folder and draw a contact sheet")
    add("--dataset", choices=WORDS["dataset"])
    add("--videos", type=Path, help="folder of videos, or a rar archive of them")
    add("--images", type=folders, default=(), help="folders of frames and flow instead: A,B,...")
    add("--download", type=Path, metavar="DIR", help="fetch UCF101 into DIR, 14 GB, and take it")
    add("--annotations", type=Path, help="folder of official lists (ucf101, hmdb51), or a CSV")
    add("--classes", type=lambda text: text.split(","), default=(), help="only these: A,B,...")
    add("--test_ratio", type=float, help="share of the test part of a folder (default 0.25)")
    add("--workers", type=int, help="processes (default: one a core; one with an accelerator)")
    add("--scheduler", metavar="ADDRESS", help="Dask cluster that does the work: tcp://host:port")
    add("--flow", default="tvl1", choices=WORDS["flow"])
    add("--warped", action="store_true", help="also flow without the motion of the camera")
    add("--size", type=size, default=(340, 256), help="WIDTHxHEIGHT (default 340x256)")
    add("--on_error", default="skip", choices=WORDS["on_error"], help="for unreadable videos")
    add("--missing", default="fail", choices=WORDS["missing"], help="for listed, absent videos")
    flags = parser.parse_args()
    if not flags.verify and flags.dataset is None:
        parser.error("give --dataset, or --verify for a folder that is prepared")
    given = [key for key in vars(flags) if getattr(flags, key) != parser.get_default(key)]
    if flags.verify and (others := set(given) - {"verify", "out"}):
        parser.error(f"--verify: takes --out alone, not --{min(others)}")
    elsewhere = {"videos", "images", "annotations"} & set(given)
    if flags.download and (flags.dataset != "ucf101" or elsewhere):
        parser.error(
            "--download: is for --dataset=ucf101, without --videos, --images and --annotations"
        )
    return flags


def run(download: Path | None, **choices: Any) -> int:
    if choices.pop("verify"):
        return 0 if verify(choices["out"]) else 1
    if download:
        choices["videos"], choices["annotations"] = ucf101_folders(download)
    chosen = Choices(**choices)
    if download:
        download_ucf101(download)
    prepare(chosen)
    return 0


def main() -> int:
    flags = parse()
    try:
        return run(**vars(flags))
    except (ValueError, RuntimeError) as error:  # refused before any work; failed at it
        for line in str(error).splitlines():  # one for each offender
            print(f"error: {line}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except OSError as error:
        print(f"error: {error.filename or flags.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
