"""Draws how a run went: loss and accuracy, gradient norms by part, and speed, by step.

python docs/curves.py --workdir=demo/run --out=docs/curves.png
"""

import argparse
from pathlib import Path

from stpyramid_jax.evaluation.report.curves import plot_curves, read_curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    args = parser.parse_args()
    curves = read_curves(args.workdir)
    if not curves:
        parser.error(f"--workdir={args.workdir}: no metrics.jsonl; is it the folder of a run?")
    plot_curves(curves, args.out)


if __name__ == "__main__":
    main()
