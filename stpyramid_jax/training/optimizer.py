"""Stochastic gradient descent as Caffe and TSN run it, with rules over parameter paths."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

# Every parameter takes the first rule that its path matches; one that matches none is an error.
# (path, learning rate multiplier, weight decay multiplier). As in TSN, biases learn twice as fast
# and do not decay; scale and shift of batch normalisation learn at the common rate, undecayed.
RULES = (
    (r"/norm[^/]*/(scale|bias)$", 1.0, 0.0),
    (r"/kernel$", 1.0, 1.0),
    (r"/bias$", 2.0, 0.0),
)
# A stream is its backbone and, where streams meet in their scores only, its class scores. What is
# in neither is the fusion: attention, the class scores of fused features, and those beside them.
STREAM = r"^/(spatial|temporal)(_head)?/"
# With partial batch norm (slides; scale and offset as in TSN) the norms of the backbones are frozen
# except the first of each.
FROZEN = r"^/(spatial|temporal)/(?!norm1(_1)?/)(.*/)?norm[^/]*/(scale|bias)$"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The solver.

    Attributes:
      learning_rate: at the first step, for a batch of `batch_size`.
      batch_size: samples of an update that `learning_rate` is meant for. Another batch takes a rate
        in proportion (linear rule, Goyal et al. 2017, arXiv 1706.02677); the steps stay. 0 takes
        the rate as it is for any batch.
      boundaries: steps at which the rate is multiplied by `decay`.
      decay: see `boundaries`.
      warmup: steps over which the rate rises linearly from zero.
      momentum: of the accumulated gradient.
      weight_decay: L2 penalty added to the gradient of weights, not of biases.
      spatial_multiplier, temporal_multiplier: factors on the rate of a stream.
      clip_norm: largest global L2 norm of the gradient.
      spatial_clip_norm, temporal_clip_norm: of a stream on its own, which then has no part in the
        global norm; 0 leaves it there.
    """

    learning_rate: float
    batch_size: int = 0
    boundaries: tuple[int, ...] = ()
    decay: float = 0.1
    warmup: int = 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    spatial_multiplier: float = 1.0
    temporal_multiplier: float = 1.0
    clip_norm: float = 40.0
    spatial_clip_norm: float = 0.0
    temporal_clip_norm: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        for key in ("learning_rate", "clip_norm", "decay"):
            if not getattr(self, key) > 0:
                raise ValueError(f"optimizer.{key}={getattr(self, key)}: greater than 0")
        for key in (
            *("batch_size", "warmup", "weight_decay", "spatial_multiplier", "temporal_multiplier"),
            *("spatial_clip_norm", "temporal_clip_norm"),
        ):
            if not getattr(self, key) >= 0:
                raise ValueError(f"optimizer.{key}={getattr(self, key)}: at least 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum}: at least 0 and less than 1")
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"optimizer.boundaries={self.boundaries}: in rising order")


def schedule(config: OptimizerConfig, batch_size: int) -> optax.Schedule:
    """Linear warm-up, then a constant rate that drops at each boundary.

    The rate is `learning_rate * batch_size / config.batch_size` before any drop.
    """
    share = batch_size / config.batch_size if config.batch_size else 1.0
    steps = optax.piecewise_constant_schedule(
        config.learning_rate * share, {boundary: config.decay for boundary in config.boundaries}
    )

    def rate(step):
        warm = 1.0 if not config.warmup else jnp.minimum(1.0, (step + 1) / config.warmup)
        return steps(step) * warm

    return rate


def frozen_norms(params: Any) -> list[str]:
    """Paths of the scales and offsets that partial batch norm freezes."""
    paths = [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [path for path in paths if re.search(FROZEN, path)]


def without_frozen(gradients: Any, partial_bn: bool) -> Any:
    """The gradients, zero where partial batch norm freezes: those have no part in any norm."""
    if not partial_bn:
        return gradients
    return jax.tree_util.tree_map_with_path(
        lambda path, g: jnp.zeros_like(g) if re.search(FROZEN, _path(path)) else g, gradients
    )


def _path(keys) -> str:
    return "/" + "/".join(str(key.key) for key in keys)


def _stream(path: str) -> str:
    """The stream that a parameter belongs to, or nothing for the fusion."""
    found = re.search(STREAM, path)
    return found[1] if found else ""


def multipliers(params: Any, config: OptimizerConfig, partial_bn: bool = False) -> tuple[Any, Any]:
    """Per parameter, the multipliers of its learning rate and of its weight decay."""
    streams = {
        "spatial": config.spatial_multiplier,
        "temporal": config.temporal_multiplier,
        "": 1.0,
    }

    def rule(path, _):
        name = _path(path)
        for pattern, rate, decay in RULES:
            if re.search(pattern, name):
                if partial_bn and re.search(FROZEN, name):
                    return 0.0, 0.0
                return rate * streams[_stream(name)], decay
        raise ValueError(f"parameter {name}: no rule of the optimizer covers it")

    pairs = jax.tree_util.tree_map_with_path(rule, params)

    def pick(index):
        return jax.tree.map(lambda pair: pair[index], pairs, is_leaf=lambda x: type(x) is tuple)

    return pick(0), pick(1)


def clip(gradients: Any, config: OptimizerConfig) -> Any:
    """Scales each part down to its largest L2 norm: a stream with one of its own, and the rest."""
    limits = {"spatial": config.spatial_clip_norm, "temporal": config.temporal_clip_norm}

    def part(path):
        stream = _stream(_path(path))
        return stream if limits.get(stream) else ""

    parts: dict[str, list[jax.Array]] = {}
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        parts.setdefault(part(path), []).append(gradient)
    factors = {
        name: jnp.minimum(1.0, (limits.get(name) or config.clip_norm) / optax.tree.norm(arrays))
        for name, arrays in parts.items()
    }
    return jax.tree_util.tree_map_with_path(lambda path, g: factors[part(path)] * g, gradients)


def make_optimizer(
    config: OptimizerConfig, partial_bn: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Clip, add weight decay, scale by the rate, accumulate momentum.

        v <- momentum v + rate * (clip(g) + weight_decay w);  w <- w - v

    with each parameter's own multipliers of rate and decay. The rate stands inside the momentum,
    as in Caffe: where it drops, earlier and larger steps still ring out. What is frozen has no
    part in the norms that are clipped. `update` takes the rate of the step as `rate=`; the state
    is v alone.
    """

    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(updates, state, params=None, **extra):
        rates, decays = multipliers(params, config, partial_bn)
        rate = extra["rate"]

        def accumulate(g, v, w, factor, decay):
            return config.momentum * v + rate * factor * (g + config.weight_decay * decay * w)

        # What does not learn has no part in a norm.
        learning = jax.tree.map(lambda g, rate: g if rate else jnp.zeros_like(g), updates, rates)
        clipped = clip(learning, config)
        state = jax.tree.map(accumulate, clipped, state, params, rates, decays)
        return jax.tree.map(jnp.negative, state), state

    return optax.GradientTransformationExtraArgs(init, update)
