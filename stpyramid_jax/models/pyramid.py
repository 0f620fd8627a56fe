"""The Spatiotemporal Pyramid Network (Wang, Long, Wang, Yu, CVPR 2017) and its ablations.

Three levels of compact bilinear fusion over two streams:

    1. temporal:  the T snippet maps of the flow stream -> one motion map, at each location
    2. attention: spatial map x motion -> where to look in the spatial map
    3. pyramid:   pooled spatial x attended spatial x pooled motion -> class scores
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from stpyramid_jax.models.backbones import BACKBONES
from stpyramid_jax.models.fusion import STCB, Attention, over_lines, unit_rms
from stpyramid_jax.ops.attention import attention_pool

_CHOICES = {
    "backbone": tuple(BACKBONES),
    "streams": ("spatial", "temporal", "both"),
    "motion": ("flow", "warped", "rgb_difference"),
    "temporal_fusion": ("average", "sum", "concat", "stcb"),
    "guidance": ("map", "vector"),
    "stream_fusion": ("score", "concat", "sum", "stcb"),
    "dtype": ("float32", "bfloat16"),
}

# The rows of the paper's ablation, as points of ModelConfig's space.
MODELS: Mapping[str, Mapping[str, object]] = {
    "spatial": {"streams": "spatial", "attention": False},
    "temporal": {"streams": "temporal", "snippets": 1, "attention": False},
    "A": {"streams": "both", "snippets": 1, "attention": False, "stream_fusion": "score"},
    "B": {"streams": "both", "snippets": 1, "attention": False, "stream_fusion": "stcb"},
    "C": {"streams": "both", "attention": False, "stream_fusion": "stcb"},
    "D": {"streams": "both", "attention": True, "stream_fusion": "stcb"},
}


def _choose(key: str, value: str, options) -> str:
    if value not in options:
        near = difflib.get_close_matches(str(value), options, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{key}={value!r}: one of {', '.join(options)}{hint}")
    return value


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A point in the space of two-stream networks that holds every row of the ablation.

    Attributes:
      num_classes: K.
      backbone: a name of `BACKBONES`, used by both streams.
      streams: which streams reach the class scores.
      motion: what the flow stream sees: "flow", "warped" (flow without the camera's motion), both
        of 2L channels a snippet, or "rgb_difference", each frame less the one before, 3L channels
        (TSN's RGB difference).
      snippets: T, snippets around the frame.
      snippet_length: L, flow fields or differences in a snippet.
      temporal_fusion: of the T snippet maps at each location (level 1).
      attention: pool the spatial map by attention guided by motion (level 2).
      guidance: the motion map at the same location, or its mean for all locations. The paper does
        not say which.
      stream_fusion: of the pooled features (level 3); `score` averages class scores instead.
      stream_scores: where features are fused, the class scores are the mean of theirs and of those
        of model A, which both streams give on their own; each learns by a loss of its own. On few
        clips the pyramid pays beside the streams rather than in their place (docs/results.md).
      flow_weight: weight of the temporal scores among those of both streams, the spatial ones at 1.
      sketch_dims: d1, d2, d3 of the three levels.
      sketch_seed: of the fixed hashes.
      normalize: signed square root and unit root mean square after each level.
      dropout: rate before the class scores.
      head_std: of the initial weights of the class scores.
      partial_bn: all batch normalisation but the first of each stream is frozen: its statistics,
        scale and offset stay as they are.
      dtype: of the backbones' computation; parameters and class scores are float32.
      remat: the backbones keep the inputs of their blocks only and compute the rest again in the
        backward pass.
    """

    num_classes: int
    backbone: str = "squeezenet"
    streams: str = "both"
    motion: str = "flow"
    snippets: int = 3
    snippet_length: int = 10
    temporal_fusion: str = "stcb"
    attention: bool = True
    guidance: str = "map"
    stream_fusion: str = "stcb"
    stream_scores: bool = False
    flow_weight: float = 1.5
    sketch_dims: tuple[int, int, int] = (1024, 2048, 4096)
    sketch_seed: int = 0
    normalize: bool = True
    dropout: float = 0.5
    head_std: float = 0.001
    partial_bn: bool = False
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        object.__setattr__(self, "sketch_dims", tuple(self.sketch_dims))
        for key, options in _CHOICES.items():
            _choose(f"model.{key}", getattr(self, key), options)
        for key in ("num_classes", "snippets", "snippet_length"):
            if getattr(self, key) < 1:
                raise ValueError(f"model.{key}={getattr(self, key)}: at least 1")
        if len(self.sketch_dims) != 3 or min(self.sketch_dims) < 1:
            raise ValueError(
                f"model.sketch_dims={self.sketch_dims}: three dimensions of at least 1"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout}: at least 0 and less than 1")
        for key in ("flow_weight", "head_std"):
            if not getattr(self, key) >= 0:
                raise ValueError(f"model.{key}={getattr(self, key)}: at least 0")
        if self.attention and self.streams == "temporal":
            raise ValueError(
                "model.attention=True, model.streams='temporal': attention pools the spatial map; "
                "set model.attention=False or model.streams='both'"
            )
        if self.stream_scores and not self.fuses:
            raise ValueError(
                f"model.stream_scores=True, model.streams={self.streams!r}, "
                f"model.stream_fusion={self.stream_fusion!r}: they are added to those of fused "
                "features; set model.streams='both' and model.stream_fusion='stcb'"
            )

    @property
    def fuses(self) -> bool:
        """Whether features of both streams become one (level 3)."""
        return self.streams == "both" and self.stream_fusion != "score"

    @property
    def uses_rgb(self) -> bool:
        return self.streams != "temporal"

    @property
    def uses_flow(self) -> bool:
        return self.streams != "spatial" or self.attention

    @property
    def layouts(self) -> dict[str, tuple[str | int, ...]]:
        """Axes of each input by its name; those with a letter are as long as the caller likes."""
        layouts: dict[str, tuple[str | int, ...]] = {}
        if self.uses_rgb:
            layouts["rgb"] = ("B", "H", "W", 3)
        if self.uses_flow and self.motion == "rgb_difference":
            layouts["frames"] = ("B", self.snippets, self.snippet_length + 1, "H", "W", 3)
        elif self.uses_flow:
            layouts["flow"] = ("B", self.snippets, "H", "W", 2 * self.snippet_length)
        return layouts


def named_model(name: str) -> dict[str, Any]:
    """Fields of `ModelConfig` for a row of the ablation: spatial, temporal, A, B, C or D."""
    return dict(MODELS[_choose("model", name, tuple(MODELS))])


class Outputs(NamedTuple):
    """What a forward pass gives.

    Attributes:
      logits: [B, K] class scores before the softmax.
      attention: [B, h, w] weights that sum to one over positions, or None without attention.
      streams: [B, K] class scores by name where each is trained on its own: of the streams, where
        they meet in their scores, and of what is `fused`, with `stream_scores`; else empty.
      features: [B, C] vectors on the way, by name: `spatial` and `temporal`, means over the last
        maps of the streams (the latter over snippets too); `motion` after level 1, `attended` after
        level 2, `fused` after level 3. Those that the model has.
    """

    logits: Float[Array, "B K"]
    attention: Float[Array, "B h w"] | None
    streams: dict[str, Float[Array, "B K"]]
    features: dict[str, Float[Array, "B _"]]


class Pyramid(nn.Module):
    """Two backbones and the fusion between them; inputs in bytes, as the shards hold them.

    Inputs: `rgb` [B, H, W, 3], and `flow` [B, T, H, W, 2L] (channels x1, y1, x2, y2, ...) or, where
    `config.motion` is "rgb_difference", `frames` [B, T, L + 1, H, W, 3], each in 0..255, uint8 or
    floating; only what `config.layouts` names is read.

    Samples may share snippets, each of which goes through the backbone once: with `snippets`
    [R, P, T] int32, B = R P, `flow` (or `frames`) is [R, S, ...], and sample p of row r has the T
    snippets `snippets[r, p]` of that row.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, inputs: Mapping[str, Num[Array, "..."]], *, train: bool) -> Outputs:
        config = self.config
        self._check_shapes(inputs)
        pooled, features, spatial, attention = {}, {}, None, None
        if config.uses_rgb:
            mean, scale = self._units("rgb")
            rgb = (inputs["rgb"].astype(jnp.float32) - mean) * scale
            spatial = self._map("spatial", rgb, train)
            pooled["spatial"] = features["spatial"] = spatial.mean((-3, -2))
        if config.uses_flow:
            maps = self._snippet_maps(self._snippets(inputs), inputs.get("snippets"), train)
            motion, motion_vector = self._motion(maps)
            features |= {"temporal": maps.mean((1, 2, 3)), "motion": motion_vector}
            if spatial is not None and config.attention:
                pooled["attended"], attention = self._attend(spatial, motion, motion_vector)
                features["attended"] = pooled["attended"]
            if config.streams != "spatial":
                pooled["temporal"] = motion_vector
        if not config.fuses:
            logits, streams = self._scores(pooled, train, "head")
            return Outputs(logits, attention, streams, features)
        features["fused"] = self._fuse(list(pooled.values()))
        logits = self._head("head", features["fused"], train)
        if not config.stream_scores:
            return Outputs(logits, attention, {}, features)
        plain = {name: features[name] for name in ("spatial", "temporal")}
        beside, streams = self._scores(plain, train, "scores")
        return Outputs((logits + beside) / 2, attention, streams | {"fused": logits}, features)

    def _check_shapes(self, inputs):
        """Refuses what broadcasting would hide, such as a batch of one beside a batch of many."""
        sizes, layouts = {}, self.config.layouts
        if self.config.uses_flow and "snippets" in inputs:
            motion = next(name for name in layouts if name != "rgb")
            shared = jnp.shape(inputs["snippets"])
            layouts |= {motion: (*shared[:1], "S", *layouts[motion][2:])}
            layouts["snippets"] = ("R", "P", self.config.snippets)
            sizes["B"] = math.prod(shared[:2])
        for name, axes in layouts.items():
            shape = jnp.shape(inputs[name]) if name in inputs else ()
            named = zip(axes, shape, strict=False)
            sizes = {axis: size for axis, size in named if isinstance(axis, str)} | sizes
            if shape != tuple(sizes.get(axis, axis) for axis in axes):
                raise ValueError(
                    f"{name} of shape {shape}: the model takes [{', '.join(map(str, axes))}], "
                    "with the same B, H and W in all inputs"
                )

    def _units(self, name):
        """Mean and scale [1, 1, 1, 3] that a stream's weights expect of RGB bytes.

        Variables of their own, which no optimizer reaches: weights that are loaded bring theirs.
        """
        units = BACKBONES[self.config.backbone].units
        held = self.variable(
            "units", name, lambda: {"mean": jnp.array(units.mean), "scale": jnp.array(units.scale)}
        ).value
        return tuple(held[key][None, None, None, :] for key in ("mean", "scale"))

    def _map(self, stream, images, train):
        """The last map of a stream's backbone."""
        config = self.config
        backbone = BACKBONES[config.backbone].module(
            partial_bn=config.partial_bn,
            dtype=jnp.dtype(config.dtype),
            remat=config.remat,
            name=stream,
        )
        features = backbone(images, train)
        if 0 in features.shape:
            raise ValueError(
                f"images of {images.shape[1]} x {images.shape[2]}: too small for "
                f"model.backbone={self.config.backbone!r}, whose last map is empty; "
                "give a larger input.crop"
            )
        return features

    def _snippets(self, inputs):
        """What the flow stream sees, in its units: [B, T, H, W, 2L] or [B, T, H, W, 3L]."""
        _, scale = self._units("flow")
        if self.config.motion == "rgb_difference":
            # The mean of the units falls out; bytes subtract exactly in float32.
            frames = inputs["frames"].astype(jnp.float32)
            differences = (frames[:, :, 1:] - frames[:, :, :-1]) * scale[None, None]
            differences = jnp.moveaxis(differences, 2, -2)  # [B, T, H, W, L, 3]
            return differences.reshape(*differences.shape[:4], -1)
        # Zero displacement is byte 127.5 (TSN: 128): a mirrored field is the exact negative.
        return (inputs["flow"].astype(jnp.float32) - 127.5) * scale.mean()

    def _snippet_maps(self, images, chosen, train):
        """The last maps of the flow stream: [B, T, H, W, C] -> [B, T, h, w, c].

        Where samples share snippets, images are [R, S, H, W, C] and `chosen` is [R, P, T].
        """
        # One set of parameters for all snippets, which are folded into the batch.
        maps = self._map("temporal", images.reshape(-1, *images.shape[2:]), train)
        maps = maps.reshape(*images.shape[:2], *maps.shape[1:])
        if chosen is None:
            return maps
        maps = jax.vmap(lambda row, numbers: row[numbers])(maps, chosen)
        return maps.reshape(-1, *maps.shape[2:])

    def _motion(self, maps):
        """Level 1: [B, T, h, w, c] -> the motion map [B, h, w, d1] and its pooled vector."""
        config = self.config
        snippets = [snippet.squeeze(1) for snippet in jnp.split(maps, config.snippets, 1)]
        if config.snippets == 1:
            motion = snippets[0]
        elif config.temporal_fusion == "concat":
            motion = jnp.concatenate(snippets, axis=-1)
        elif config.temporal_fusion in ("sum", "average"):
            motion = sum(snippets[1:], start=snippets[0])
            motion = motion / config.snippets if config.temporal_fusion == "average" else motion
        else:
            motion, normalized = over_lines(Pyramid._level1, self, *snippets)
            return normalized, self._normalize(motion.mean((-3, -2)))
        return motion, motion.mean((-3, -2))

    def _level1(self, *snippets):
        """Compact bilinear product of the snippets at each location, and the same normalised."""
        config = self.config
        motion = STCB(config.sketch_dims[0], config.sketch_seed, 1, name="level1")(snippets)
        return motion, self._normalize(motion)

    def _attend(self, spatial, motion, motion_vector):
        """Level 2: pools the spatial map where its product with motion says so."""
        guide = motion if self.config.guidance == "map" else motion_vector[:, None, None, :]
        return attention_pool(spatial, over_lines(Pyramid._level2, self, spatial, guide))

    def _level2(self, spatial, guide):
        """Scores of where to look, for each location."""
        config = self.config
        fuse = STCB(config.sketch_dims[1], config.sketch_seed, 2, name="level2")
        return Attention(name="attention")(self._normalize(fuse([spatial, guide])))

    def _fuse(self, features):
        """Level 3: the pooled features of both streams become one."""
        config = self.config
        if config.stream_fusion == "concat":
            return jnp.concatenate(features, axis=-1)
        if config.stream_fusion == "sum":
            widths = [x.shape[-1] for x in features]
            if len(set(widths)) != 1:
                raise ValueError(
                    f"model.stream_fusion='sum': features of widths {widths} cannot be added; "
                    "take 'concat' or 'stcb'"
                )
            return sum(features[1:], start=features[0])
        fuse = STCB(config.sketch_dims[2], config.sketch_seed, 3, name="level3")
        return self._normalize(fuse(features))

    def _scores(self, pooled, train, suffix):
        """Class scores of the streams, averaged where there are two, and of each alone.

        A `head` learns at the rate of its stream; `scores`, beside what is fused, at that of the
        fusion (`STREAM` in training/optimizer.py).
        """
        streams = {}
        if "spatial" in pooled:
            seen = pooled.get("attended", pooled["spatial"])
            streams["spatial"] = self._head(f"spatial_{suffix}", seen, train)
        if "temporal" in pooled:
            streams["temporal"] = self._head(f"temporal_{suffix}", pooled["temporal"], train)
        weights = {"spatial": 1.0, "temporal": self.config.flow_weight}
        total = sum(weights[name] for name in streams)
        weighted = [weights[name] / total * scores for name, scores in streams.items()]
        return sum(weighted[1:], start=weighted[0]), streams

    def _normalize(self, x):
        return unit_rms(x) if self.config.normalize else x

    def _head(self, name, x, train):
        x = nn.Dropout(self.config.dropout, deterministic=not train, name=f"{name}_dropout")(x)
        init = nn.initializers.normal(self.config.head_std)
        return nn.Dense(self.config.num_classes, kernel_init=init, name=name)(x)


def create_model(config: ModelConfig) -> Pyramid:
    """The network of a `ModelConfig`."""
    return Pyramid(config)
