"""Stochastic gradient descent as Caffe and TSN run it, with rules over parameter paths."""

import dataclasses
import re
from typing import Any

import jax
import optax

# Every parameter takes the first rule that its path matches; one that matches none is an error.
# (path, learning rate multiplier, weight decay multiplier). As in TSN, biases learn twice as fast
# and do not decay; scale and shift of batch normalisation learn at the common rate, undecayed.
RULES = (
    (r"/norm[^/]*/(scale|bias)$", 1.0, 0.0),
    (r"/kernel$", 1.0, 1.0),
    (r"/bias$", 2.0, 0.0),
)
# With partial batch norm (slides; scale and offset as in TSN) the norms of the backbones are frozen
# except the first of each.
FROZEN = r"^/(spatial|temporal)/(?!norm1(_1)?/)(.*/)?norm[^/]*/(scale|bias)$"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The solver.

    Attributes:
      learning_rate: at the first step.
      boundaries: steps at which the rate is multiplied by `decay`.
      decay: see `boundaries`.
      warmup: steps over which the rate rises linearly from zero.
      momentum: of the accumulated gradient.
      weight_decay: L2 penalty added to the gradient of weights, not of biases.
      clip_norm: largest global L2 norm of the gradient.
      backbone_multiplier: factor on the rate of both backbones.
    """

    learning_rate: float
    boundaries: tuple[int, ...] = ()
    decay: float = 0.1
    warmup: int = 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 40.0
    backbone_multiplier: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        for key in ("learning_rate", "clip_norm", "decay"):
            if not getattr(self, key) > 0:
                raise ValueError(f"optimizer.{key}={getattr(self, key)}: greater than 0")
        for key in ("warmup", "weight_decay", "backbone_multiplier"):
            if not getattr(self, key) >= 0:
                raise ValueError(f"optimizer.{key}={getattr(self, key)}: at least 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer.momentum={self.momentum}: at least 0 and less than 1")
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"optimizer.boundaries={self.boundaries}: in rising order")


def schedule(config: OptimizerConfig) -> optax.Schedule:
    """Linear warm-up, then a constant rate that drops at each boundary."""
    steps = optax.piecewise_constant_schedule(
        config.learning_rate, {boundary: config.decay for boundary in config.boundaries}
    )

    def rate(step):
        warm = 1.0 if not config.warmup else jax.numpy.minimum(1.0, (step + 1) / config.warmup)
        return steps(step) * warm

    return rate


def frozen_norms(params: Any) -> list[str]:
    """Paths of the scales and offsets that partial batch norm freezes."""
    paths = [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [path for path in paths if re.search(FROZEN, path)]


def _path(keys) -> str:
    return "/" + "/".join(str(key.key) for key in keys)


def multipliers(params: Any, config: OptimizerConfig, partial_bn: bool = False) -> tuple[Any, Any]:
    """Per parameter, the multipliers of its learning rate and of its weight decay."""

    def rule(path, _):
        name = _path(path)
        for pattern, rate, decay in RULES:
            if re.search(pattern, name):
                if partial_bn and re.search(FROZEN, name):
                    return 0.0, 0.0
                backbone = name.startswith(("/spatial/", "/temporal/"))
                return rate * (config.backbone_multiplier if backbone else 1.0), decay
        raise ValueError(f"parameter {name}: no rule of the optimizer covers it")

    pairs = jax.tree_util.tree_map_with_path(rule, params)

    def pick(index):
        return jax.tree.map(lambda pair: pair[index], pairs, is_leaf=lambda x: type(x) is tuple)

    return pick(0), pick(1)


def make_optimizer(
    config: OptimizerConfig, partial_bn: bool = False
) -> optax.GradientTransformation:
    """Clip by global norm, add weight decay, scale by the rate, accumulate momentum.

        v <- momentum v + rate * (clip(g) + weight_decay w);  w <- w - v

    with each parameter's own multipliers of rate and decay. The rate stands inside the momentum,
    as in Caffe: where it drops, earlier and larger steps still ring out. What is frozen has no
    part in the norm that is clipped.
    """

    def freeze(updates, params):
        rates, _ = multipliers(params, config, partial_bn)
        return jax.tree.map(
            lambda g, rate: g if rate > 0 else jax.numpy.zeros_like(g), updates, rates
        )

    def decay(updates, params):
        _, decays = multipliers(params, config, partial_bn)
        return jax.tree.map(
            lambda g, w, factor: g + config.weight_decay * factor * w, updates, params, decays
        )

    def scale(updates, params):
        rates, _ = multipliers(params, config, partial_bn)
        return jax.tree.map(lambda update, factor: factor * update, updates, rates)

    return optax.chain(
        optax.stateless(freeze),
        optax.clip_by_global_norm(config.clip_norm),
        optax.stateless(decay),
        optax.stateless(scale),
        optax.scale_by_learning_rate(schedule(config)),
        optax.trace(config.momentum),
    )
