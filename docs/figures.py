"""Draws the figures of docs/model.md from the code that they are of.

    python docs/figures.py --out=docs/figures

Shapes are those of model D of configs/ucf101.py with BN-Inception (`jax.eval_shape`), sketches
those of `count_sketch` and `stcb`, and the clip is a rendered one with its flow by `tvl1`.
"""

import argparse
import runpy
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stpyramid_jax import ModelConfig, count_sketch, create_model, make_sketches, stcb, tvl1
from stpyramid_jax.colour import flow_colour
from stpyramid_jax.evaluation.report.figures import new_figure
from stpyramid_jax.models.pyramid import named_model

ROOT = Path(__file__).parents[1]
PAPER = ModelConfig(num_classes=101, backbone="bn_inception", **named_model("D"))
CROP = 224
SPATIAL, TEMPORAL, FUSED, GREY = "#cfe3f7", "#fbdcc4", "#dcefd5", "#eeeeee"
DRAWN = {"svg.fonttype": "none", "svg.hashsalt": "figures", "font.family": "sans-serif"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(DRAWN):
        for name, draw in {"levels": levels, "sketch": sketch, "clip": clip}.items():
            # Without a date and with fixed names inside, the same figure is the same file.
            draw().savefig(args.out / f"{name}.svg", metadata={"Date": None})


def shapes(config: ModelConfig, crop: int) -> dict[str, str]:
    """Shapes of what a sample of model D becomes, as `7 x 7 x 1024`; nothing is computed."""
    sizes: dict[str | int, int | str] = {"B": 1, "H": crop, "W": crop}
    inputs = {
        name: jax.ShapeDtypeStruct(tuple(sizes.get(axis, axis) for axis in axes), jnp.uint8)
        for name, axes in config.layouts.items()
    }
    model = create_model(config)
    outputs, variables = jax.eval_shape(
        lambda key, inputs: model.init_with_output(key, inputs, train=False),
        jax.random.key(0),
        inputs,
    )
    assert outputs.attention is not None
    place = outputs.attention.shape[1:]
    width = {name: feature.shape[-1] for name, feature in outputs.features.items()}
    sketches = {name: level["inputs"] for name, level in variables["sketch"].items()}
    found = {name: image.shape[1:] for name, image in inputs.items()}
    found |= {"attention": place, "logits": outputs.logits.shape[1:]}
    found |= {f"{name} map": (*place, width[name]) for name in ("spatial", "temporal", "motion")}
    found |= {name: (size,) for name, size in width.items()}
    found["product"] = (*place, config.sketch_dims[1])
    assert [len(sketches[f"level{number}"]) for number in (1, 2, 3)] == [config.snippets, 2, 3]
    return {name: " x ".join(map(str, shape)) for name, shape in found.items()}


def levels() -> Figure:
    """The network from its inputs (below) to its class scores."""
    found, snippets = shapes(PAPER, CROP), PAPER.snippets
    figure = new_figure(7.2, 7.6)
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0.1, 10.6))
    axes.axis("off")
    boxes = {
        "rgb": (2.4, 0.6, SPATIAL, "frame", found["rgb"]),
        "flow": (7.2, 0.6, TEMPORAL, f"{snippets} snippets of flow", found["flow"]),
        "spatial": (2.4, 2.4, SPATIAL, "spatial map", found["spatial map"]),
        "temporal": (
            7.2,
            2.4,
            TEMPORAL,
            f"{snippets} temporal maps",
            f"each {found['temporal map']}",
        ),
        "motion": (7.2, 4.0, TEMPORAL, "motion map", found["motion map"]),
        "product": (4.8, 5.35, FUSED, "level 2: stcb of both", found["product"]),
        "attention": (4.8, 6.5, FUSED, "attention", f"{found['attention']}, sums to 1"),
        "pooled": (1.5, 7.9, SPATIAL, "pooled", found["spatial"]),
        "attended": (4.8, 7.9, FUSED, "attended", found["attended"]),
        "vector": (8.1, 7.9, TEMPORAL, "pooled motion", found["motion"]),
        "fused": (4.8, 9.1, FUSED, "fused", found["fused"]),
        "scores": (4.8, 10.2, GREY, "class scores", found["logits"]),
    }
    for x, y, colour, name, shape in boxes.values():
        _box(axes, x, y, colour, f"{name}\n{shape}")
    for start, end, label in (
        ("rgb", "spatial", "backbone"),
        ("flow", "temporal", "backbone, one for all snippets"),
        ("temporal", "motion", f"level 1: stcb of the {snippets}"),
        ("spatial", "product", ""),
        ("motion", "product", ""),
        ("product", "attention", "two 1 x 1 convolutions, softmax"),
        ("spatial", "pooled", "mean"),
        ("attention", "attended", "weighted sum of the spatial map"),
        ("motion", "vector", "mean"),
        ("pooled", "fused", ""),
        ("attended", "fused", "level 3: stcb"),
        ("vector", "fused", ""),
        ("fused", "scores", "dropout, dense"),
    ):
        _arrow(axes, boxes[start][:2], boxes[end][:2], label)
    return figure


def _box(axes: Axes, x: float, y: float, colour: str, text: str) -> None:
    style = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "#555555"}
    axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=style, zorder=2)


def _arrow(axes: Axes, start, end, label: str) -> None:
    style = {"arrowstyle": "-|>", "color": "#555555", "shrinkA": 16, "shrinkB": 16}
    axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=1)
    middle = np.add(start, end) / 2
    axes.text(
        middle[0] + 0.12, middle[1], label, fontsize=8, va="center", color="#333333", zorder=3
    )


def sketch() -> Figure:
    """A count sketch of ten features in six bins, and how the estimate's error falls with d."""
    figure = new_figure(7.2, 3.2)
    left, right = figure.subplots(1, 2)
    (drawn,) = make_sketches(jax.random.key(3), (10,), 6)
    x = jax.random.uniform(jax.random.key(1), (10,), minval=0.3)
    places, bins = np.linspace(0.05, 0.95, 10), np.linspace(0.1, 0.9, 6)
    colours = [_hue(sign) for sign in np.asarray(drawn.sign)]
    for place, end, colour in zip(places, np.asarray(drawn.hash), colours, strict=True):
        left.plot([place, bins[end]], [3.9, 2.3], color=colour, linewidth=1.2)
    _bars(left, places, np.asarray(x), 4, colours, 0.06)
    _bars(left, bins, np.asarray(count_sketch(x, drawn)), 1, ["#555555"] * 6, 0.1)
    left.set(xlim=(0, 1), ylim=(-0.6, 5.1), title="10 features in 6 bins (blue +, orange -)")
    left.title.set_fontsize(10)
    left.axis("off")
    dims = (512, 1024, 2048, 4096, 8192)
    for count, marker in ((2, "o"), (3, "s")):
        errors = [estimate_error(count, dim) for dim in dims]
        right.loglog(dims, errors, marker=marker, label=f"{count} inputs")
    right.loglog(dims, 2 / np.sqrt(dims), "k:", linewidth=1, label="slope of 1 / sqrt(d)")
    right.set_xticks(dims, [str(dim) for dim in dims])
    right.minorticks_off()
    right.set_yticks([0.02, 0.05, 0.1, 0.2], ["2 %", "5 %", "10 %", "20 %"])
    right.set_xlabel("d")
    right.set_title("error of <stcb(x), stcb(y)>", fontsize=10)
    right.legend(fontsize=8)
    return figure


def _hue(sign: float) -> str:
    return "#2b6cb0" if sign > 0 else "#c05621"


def _bars(axes: Axes, places, heights, base: float, colours, width: float) -> None:
    axes.bar(places, heights, width, bottom=base, color=colours)
    axes.plot([0, 1], [base, base], color="#999999", linewidth=0.8)


def estimate_error(count: int, dim: int, features: int = 1024, draws: int = 64) -> float:
    """Standard deviation over sketches of <stcb(x), stcb(y)> / prod <x_i, y_i> - 1."""
    vectors = jax.random.uniform(jax.random.key(0), (2, count, features))

    def estimate(key):
        sketches = make_sketches(key, (features,) * count, dim)
        x, y = (stcb(list(side), sketches) for side in vectors)
        return jnp.vdot(x, y)

    estimates = jax.jit(lambda keys: jax.lax.map(estimate, keys))(
        jax.random.split(jax.random.key(1), draws)
    )
    truth = jnp.prod(jnp.sum(vectors[0] * vectors[1], axis=-1))
    return float(jnp.std(estimates / truth))


def clip() -> Figure:
    """The window of a rendered clip that one sample sees: its frame, and its snippets of flow."""
    synthesize = runpy.run_path(str(ROOT / "data" / "synthesize.py"))
    length, snippets, tau = (synthesize[name] for name in ("LENGTH", "SNIPPETS", "TAU"))
    program = synthesize["sample_program"]("HopClockwise", np.random.default_rng(0))
    frames = synthesize["render"](program)
    window = (snippets - 1) * tau + length
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames[: window + 1]])
    fields = np.asarray(jax.jit(tvl1)(grey[:-1], grey[1:]))
    figure = new_figure(7.2, 3.9)
    grid = figure.add_gridspec(snippets, length + 1, width_ratios=[snippets, *[1] * length])
    seen = figure.add_subplot(grid[:, 0])
    seen.imshow(frames[window // 2])
    seen.set_title(f"frame t = {window // 2}", fontsize=10)
    seen.axis("off")
    for i in range(snippets):
        for k in range(length):
            axes = figure.add_subplot(grid[i, k + 1])
            axes.imshow(flow_colour(fields[i * tau + k], largest=3.0))
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f"{i * tau + k}", fontsize=8, labelpad=1)
            if k == 0:
                axes.set_ylabel(f"snippet {i + 1}", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
