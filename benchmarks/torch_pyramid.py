"""Models A and D in PyTorch, with the weights of a state here: the peer of `train.py`.

Written for its speed: `channels_last` from the bytes to the last map, the fusion of
`torch_stcb.py`, gradients clipped together, one fused update.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import backbones
import numpy as np
import torch
import torch_stcb
from torch import nn
from torch.nn import functional as F
from torch_stcb import DEVICE, tensor

from stpyramid_jax.models.pretrained import save_weights, weights_of
from stpyramid_jax.models.pyramid import ModelConfig
from stpyramid_jax.training.optimizer import OptimizerConfig

STREAMS = ("spatial", "temporal")


class Pyramid(nn.Module):
    """(rgb [B, 3, H, W], flow [B, T, 2L, H, W], labels [B]) -> the loss; images in bytes.

    `variables` are those of `Pyramid` here, `form` one of `torch_stcb.FORMS`.
    """

    def __init__(self, config: ModelConfig, variables: Mapping[str, Any], form: str):
        super().__init__()
        self.config = config
        # The public BN-Inception takes BGR; the translation of its weights turns the first kernel.
        self.order = [2, 1, 0] if config.backbone == "bn_inception" else [0, 1, 2]
        mean, scale = (np.asarray(variables["units"]["rgb"][key]) for key in ("mean", "scale"))
        self.register_buffer("mean", tensor(mean[self.order])[:, None, None])
        self.register_buffer("scale", tensor(scale[self.order])[:, None, None])
        self.flow_scale = float(variables["units"]["flow"]["scale"].mean())
        self.trunks = {}
        for stream, channels in zip(STREAMS, (3, 2 * config.snippet_length), strict=True):
            model, self.trunks[stream] = network(config.backbone, channels)
            given = {key: parts[stream] for key, parts in variables.items() if stream in parts}
            model.load_state_dict(in_their_names(given, config.backbone))
            self.add_module(stream, model)
        sketches = variables.get("sketch", {})
        self.levels = nn.ModuleList(
            torch_stcb.Level(form, dim, [(pair["hash"], pair["sign"]) for pair in pairs], [])
            for pairs, dim in zip(
                (sketches[level]["inputs"] for level in sorted(sketches)),
                config.sketch_dims[: len(sketches)],
                strict=True,
            )
        )
        rest = {name: part for name, part in variables["params"].items() if name not in STREAMS}
        arrays = weights_of({"params": rest}, "").arrays
        self.dense = nn.ModuleDict(
            {
                path.removesuffix("/kernel"): dense(kernel, arrays[path[:-6] + "bias"])
                for path, kernel in arrays.items()
                if path.endswith("/kernel")
            }
        )
        placed: Any = self.to(DEVICE)  # `memory_format` is not in the types of PyTorch
        placed.to(memory_format=torch.channels_last)

    def forward(self, rgb, flow, labels):
        with torch.autocast(DEVICE.type, torch.bfloat16, self.config.dtype == "bfloat16"):
            spatial = self.trunks["spatial"]((rgb.float() - self.mean) * self.scale)
            motion = self.trunks["temporal"]((flow.flatten(0, 1).float() - 127.5) * self.flow_scale)
        spatial, motion = (x.permute(0, 2, 3, 1).float() for x in (spatial, motion))
        snippets = motion.unflatten(0, flow.shape[:2]).unbind(1)
        pooled = spatial.mean((1, 2))
        if self.config.stream_fusion == "score":
            features = pooled, snippets[0].mean((1, 2))
            scores = [self.dense[f"{x}_head"](y) for x, y in zip(STREAMS, features, strict=True)]
        else:
            motion = self.levels[0](*snippets)
            attended = self.attended(spatial, self.normalize(motion))
            fused = self.levels[2](pooled, attended, self.normalize(motion.mean((1, 2))))
            scores = [self.dense["head"](self.normalize(fused))]
        return sum(F.cross_entropy(x, labels) for x in scores)

    def attended(self, spatial, motion):
        """The spatial map [B, h, w, D], pooled where its product with motion says so."""
        guidance = self.normalize(self.levels[1](spatial, motion))
        hidden = F.relu(self.dense["attention/hidden"](guidance))
        weights = F.softmax(self.dense["attention/score"](hidden).flatten(1), -1)
        return torch.einsum("bn,bnc->bc", weights, spatial.flatten(1, 2))

    def normalize(self, x):
        """Signed square root, then unit root mean square."""
        if not self.config.normalize:
            return x
        y = x * torch.rsqrt(x.abs() + 1e-8)
        return y * (torch.rsqrt((y * y).sum(-1, keepdim=True) + 1e-8) * x.shape[-1] ** 0.5)

    def inputs(self, batch: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
        """A batch of the pipeline on the device, `channels_last` as it comes."""
        rgb = tensor(batch["rgb"][..., self.order]).permute(0, 3, 1, 2)
        flow = tensor(batch["flow"]).permute(0, 1, 4, 2, 3)
        return rgb, flow, tensor(batch["label"]).long()

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of the parameters, by our paths and in our layouts."""
        found = {}
        for stream in STREAMS:
            given = dict(self.get_submodule(stream).named_parameters())
            named = backbones.in_our_names(given, self.config.backbone)
            found |= {f"{stream}/{path}": array for path, array in named.items()}
        for name, layer in self.dense.items():
            weight, bias = (x.detach().cpu().numpy().copy() for x in layer.parameters())
            found |= {f"{name}/kernel": weight.T, f"{name}/bias": bias}
        return found


def network(backbone: str, channels: int) -> tuple[nn.Module, Callable]:
    """A network for images of so many channels, and what gives its last map."""
    model, trunk = backbones.network(backbone, train=True)
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    shape = (first.out_channels, channels, *first.kernel_size)
    first.in_channels, first.weight = channels, nn.Parameter(torch.empty(shape))
    return model, trunk


def in_their_names(variables: Mapping[str, Any], backbone: str) -> dict[str, torch.Tensor]:
    """A stream's variables as tensors by PyTorch's names, by the way that files of weights go."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(path, variables, backbone)
        return load_file(path)


def dense(kernel: np.ndarray, bias: np.ndarray) -> nn.Linear:
    """A layer with our kernel [in, out]."""
    fan_in, width = kernel.shape
    layer = nn.Linear(fan_in, width)
    with torch.no_grad():
        layer.weight.copy_(tensor(kernel).T)
        layer.bias.copy_(tensor(bias))
    return layer


def steps(
    model: Pyramid, config: OptimizerConfig, batch: Mapping[str, np.ndarray], compiled: bool
) -> Callable[[], torch.Tensor]:
    """A training step, one after the other with every call; gives its loss.

    The solver's rate must be constant, all parts alike and clipped together.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    scales = {parameter for norm in norms for parameter in norm.parameters()}
    parts: dict[str, list[nn.Parameter]] = {"kernel": [], "scale": [], "bias": []}
    for parameter in model.parameters():
        kind = "kernel" if parameter.ndim > 1 else "scale" if parameter in scales else "bias"
        parts[kind].append(parameter)
    # At a constant rate it does not matter that the momentum here holds the rate.
    rate, decay = config.learning_rate, config.weight_decay
    groups = [
        {"params": parts["kernel"], "lr": rate, "weight_decay": decay},
        {"params": parts["scale"], "lr": rate},
        {"params": parts["bias"], "lr": 2 * rate},
    ]
    groups = [group for group in groups if group["params"]]
    solver = torch.optim.SGD(groups, momentum=config.momentum, weight_decay=0, fused=True)
    parameters, inputs = list(model.parameters()), model.inputs(batch)
    forward = torch.compile(model, dynamic=False) if compiled else model

    def run():
        solver.zero_grad()
        loss = forward(*inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip_norm, foreach=True)
        solver.step()
        return torch_stcb.finished(loss.detach())

    return run
