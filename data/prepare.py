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
from typing import NoReturn

from stpyramid_jax.preparation.download import download_ucf101
from stpyramid_jax.preparation.run import CHOICES, prepare
from stpyramid_jax.preparation.verify import verify


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 340x256")
    return int(match[1]), int(match[2])


def folders(text: str) -> list[Path]:
    return [Path(part) for part in text.split(",")]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", required=True, type=Path, help="folder to write, or to verify")
    add("--verify", action="store_true", help="check a prepared folder and draw a contact sheet")
    add("--dataset", choices=CHOICES["dataset"])
    add("--videos", type=Path, help="folder of videos, or a rar archive of them")
    add("--images", type=folders, default=(), help="folders of frames and flow instead: A,B,...")
    add("--download", type=Path, metavar="DIR", help="fetch UCF101 into DIR, 14 GB, and take it")
    add("--annotations", type=Path, help="folder of official lists (ucf101, hmdb51), or a CSV")
    add("--classes", type=lambda text: text.split(","), default=(), help="only these: A,B,...")
    add("--test_ratio", type=float, help="share of the test part of a folder (default 0.25)")
    add("--workers", type=int, help="processes (default: one a core; one with an accelerator)")
    add("--scheduler", metavar="ADDRESS", help="Dask cluster that does the work: tcp://host:port")
    add("--flow", default="tvl1", choices=CHOICES["flow"])
    add("--warped", action="store_true", help="also flow without the motion of the camera")
    add("--size", type=size, default=(340, 256), help="WIDTHxHEIGHT (default 340x256)")
    add("--on_error", default="skip", choices=CHOICES["on_error"], help="for unreadable videos")
    add("--missing", default="fail", choices=CHOICES["missing"], help="for listed, absent videos")
    flags = parser.parse_args()
    if not flags.verify and flags.dataset is None:
        parser.error("give --dataset, or --verify for a folder that is prepared")
    if flags.download and (flags.dataset != "ucf101" or flags.videos or flags.annotations):
        parser.error("--download: is for --dataset=ucf101, without --videos and --annotations")
    return flags


def run(download: Path | None, **choices) -> int:
    if choices.pop("verify"):
        return 0 if verify(choices["out"]) else 1
    if download:
        choices["videos"], choices["annotations"] = download_ucf101(download)
    prepare(**choices)
    return 0


def main() -> int:
    flags = parse()
    try:
        return run(**vars(flags))
    except ValueError as error:  # a line for each offender
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # a video under --on_error=fail, or a worker that died
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or flags.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
