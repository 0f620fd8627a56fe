"""Prepares videos for training: decodes, computes optical flow, writes shards.

    python data/prepare.py --dataset=ucf101 --videos=UCF-101 --annotations=ucfTrainTestlist \
        --out=shards/ucf101
    python data/prepare.py --dataset=folder --videos=clips --out=shards/clips

The same command again continues an interrupted preparation. See data/README.md.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NoReturn

from stpyramid_jax.preparation.run import CHOICES, prepare


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 340x256")
    return int(match[1]), int(match[2])


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", required=True, choices=CHOICES["dataset"])
    add("--videos", required=True, type=Path, help="folder of videos")
    add("--annotations", type=Path, help="folder of the official lists (ucf101)")
    add("--out", required=True, type=Path, help="folder to write")
    add("--classes", type=lambda text: text.split(","), default=(), help="only these: A,B,...")
    add("--workers", type=int, help="processes (default: one a core; one with an accelerator)")
    add("--flow", default="tvl1", choices=CHOICES["flow"])
    add("--size", type=size, default=(340, 256), help="WIDTHxHEIGHT (default 340x256)")
    add("--on_error", default="skip", choices=CHOICES["on_error"], help="for unreadable videos")
    add("--missing", default="fail", choices=CHOICES["missing"], help="for listed, absent videos")
    flags = parser.parse_args()
    try:
        prepare(**vars(flags))
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
