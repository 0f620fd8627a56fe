"""Which classes models confuse with each other, side by side, and clips that the last one resolves.

    python docs/pairs.py --shards=shards/ucf10 --out=docs/pairs.png \
        --model A frozen/A/*.npz --model D frozen/D/*.npz

Prints a table of pairs, whichever of the two is taken for the other: how many test clips of a run,
the mean over the files of a model (seeds and splits). The picture shows, of the pairs that change
most from the first model to the last, the clip that changes most: its middle frame and flow.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stpyramid_jax.evaluation.metrics import guesses
from stpyramid_jax.evaluation.observation import pictures
from stpyramid_jax.evaluation.report.figures import new_figure, save, short
from stpyramid_jax.evaluation.scores import Scores, load
from stpyramid_jax.input.tfrecord import Shards

SHOWN = 5  # pairs in the picture
LENGTH = 10  # fields, whose mean is shown

Mistake = tuple[str, str, str]
"""A clip's name, its class, and the class that it was taken for."""


def mistakes(runs: Sequence[Scores]) -> Counter[Mistake]:
    """Of a model, as parts of its runs."""
    found: Counter[Mistake] = Counter()
    for run in runs:
        taken = guesses(run.scores, run.labels)
        for name, label, guess in zip(run.names, run.labels, taken, strict=True):
            if guess != label:
                found[name, run.classes[label], run.classes[guess]] += 1
    return found


def pairs(found: Mapping[Mistake, float], runs: int) -> Mapping[tuple[str, ...], float]:
    """Mistakes of a run by pair of classes, in either direction."""
    counts: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for (_, label, guess), count in found.items():
        counts[tuple(sorted((label, guess)))] += count / runs
    return counts


def resolved(
    first: Counter[Mistake], last: Counter[Mistake], pair: tuple[str, ...]
) -> Mistake | None:
    """The mistake of a pair whose clip the last model has wrong least often beside it, if any."""
    wrong: Counter[str] = Counter()  # of the last model, whatever a clip was taken for
    for (name, *_), count in last.items():
        wrong[name] += count
    gains = {key: n - wrong[key[0]] for key, n in first.items() if tuple(sorted(key[1:])) == pair}
    best = max(gains, key=gains.__getitem__, default=None)
    return best if best is not None and gains[best] > 0 else None


def look(shards: Shards, video: int) -> Mapping[str, np.ndarray]:
    """The frame in the middle of a clip, and the mean flow around it in colour."""
    middle = shards.videos[video].fields // 2
    start = max(0, middle - LENGTH // 2)
    length = min(LENGTH, shards.videos[video].fields - start)
    fields = np.concatenate(list(shards.flow(video, start, length)))  # [2 length, h, w]
    images = {"rgb": shards.rgb(video, middle), "flow": np.moveaxis(fields, 0, -1)[None]}
    return pictures(images, None, shards.parameters["flow"]["bound"])


def draw(shards: Shards, shown: Sequence[tuple[Mistake, str]], path: Path) -> None:
    """Frame and flow of some clips, each with a caption."""
    numbers = {video.name: number for number, video in enumerate(shards.videos)}
    figure = new_figure(2.5 * len(shown), 4.4)
    columns = figure.subplots(2, len(shown), squeeze=False).T
    for column, ((name, label, guess), caption) in zip(columns, shown, strict=True):
        for axes, picture in zip(column, look(shards, numbers[name]).values(), strict=True):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
        column[0].set_title(f"{short(label)},\nnot {short(guess)}", fontsize=10)
        column[1].set_xlabel(caption, fontsize=9)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", required=True, help="the data set")
    parser.add_argument(
        "--model", nargs="+", action="append", required=True, metavar="NAME FILE", help="scores.npz"
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    args = parser.parse_args()
    models = {name: [load(Path(file)) for file in files] for name, *files in args.model}
    if len(models) < 2 or not all(models.values()):
        parser.error("--model: give two models or more, each a name and files of scores")
    clips = {tuple(sorted(tuple(sorted(run.names)) for run in runs)) for runs in models.values()}
    if len(clips) > 1:
        parser.error("--model: files of other clips, or more of them; give the same for each")

    found = {name: mistakes(runs) for name, runs in models.items()}
    counts = {name: pairs(found[name], len(runs)) for name, runs in models.items()}
    first, *_, last = models
    every = {pair for of_one in counts.values() for pair in of_one}
    order = sorted(every, key=lambda pair: (counts[last][pair] - counts[first][pair], pair))
    print(f"{'confused, clips of a run':46}" + "".join(f"{name:>10}" for name in models))
    for pair in order:
        print(f"{' / '.join(pair):46}" + "".join(f"{counts[name][pair]:10.2f}" for name in models))

    shown = []
    for pair in order[:SHOWN]:
        example = resolved(found[first], found[last], pair)
        if example:
            wrong = " ".join(f"{name} {found[name][example]}" for name in models)
            shown.append((example, f"mistaken so: {wrong}"))
    if not shown:
        parser.error(f"--model: {last} has no clip right that {first} has wrong")
    draw(Shards(args.shards), shown, args.out)


if __name__ == "__main__":
    main()
