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

from stpyramid_jax.preparation.run import prepare


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 340x256")
    return int(match[1]), int(match[2])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=("ucf101", "folder"))
    add("--videos", required=True, type=Path, help="folder of videos")
    add("--annotations", type=Path, help="folder of the official lists (ucf101)")
    add("--out", required=True, type=Path, help="folder to write")
    add("--classes", type=lambda text: text.split(","), default=(), help="only these: A,B,...")
    add("--workers", type=int, help="processes (default: one a core; one with an accelerator)")
    add("--flow", default="tvl1", choices=("tvl1", "opencv", "dis"))
    add("--size", type=size, default=(340, 256), help="WIDTHxHEIGHT (default 340x256)")
    add("--on_error", default="skip", choices=("skip", "fail"), help="for unreadable videos")
    add("--missing", default="fail", choices=("fail", "skip"), help="for listed, absent videos")
    try:
        prepare(**vars(parser.parse_args()))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except RuntimeError as error:  # a video under --on_error=fail, or a worker that died
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
