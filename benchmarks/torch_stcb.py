"""The pyramid's fusion in PyTorch: the peer of `stcb.py`, with every form of the count sketch.

Written for its speed: transforms of real numbers by `torch.fft`, no copies that can be avoided, and
the sketch in all forms that PyTorch is good at. Which is best depends on sizes and device, so
`stcb.py` times them first. All are exact and have the hashes and signs of this project's sketch.
"""

import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# PyTorch says that sparse tensors are in beta, and that compiling skips complex numbers.
warnings.simplefilter("ignore")
# One graph for each form and case, of which there are more than the 8 that it allows by default.
torch._dynamo.config.recompile_limit = 256
torch._dynamo.config.accumulated_recompile_limit = 1024
# Processes that compile would be started for a few kernels.
torch._inductor.config.compile_threads = 1
# As XLA does by default; without effect on CPU.
torch.set_float32_matmul_precision("high")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class ScatterAdd(nn.Module):
    """`scatter_add_` over the last axis; its gradient is a gather."""

    def __init__(self, hash, sign, output_dim):
        super().__init__()
        self.register_buffer("hash", hash)
        self.register_buffer("sign", sign)
        self.output_dim = output_dim

    def forward(self, x):
        empty = x.new_zeros(*x.shape[:-1], self.output_dim)
        return empty.scatter_add_(-1, self.hash.expand(x.shape), x * self.sign)


class IndexAdd(ScatterAdd):
    """`index_add_` over the last axis; its gradient is `index_select`."""

    def forward(self, x):
        empty = x.new_zeros(*x.shape[:-1], self.output_dim)
        return empty.index_add_(-1, self.hash, x * self.sign)


class _Leading(torch.autograd.Function):
    """`index_add_` with features leading, so that each is a run of memory; gather backwards."""

    @staticmethod
    def forward(ctx, x, hash, sign, output_dim):
        ctx.save_for_backward(hash, sign)
        rows = (x * sign).flatten(0, -2).t().contiguous()
        bins = rows.new_zeros(output_dim, rows.shape[1]).index_add_(0, hash, rows)
        return bins.t().reshape(*x.shape[:-1], output_dim)

    @staticmethod
    def backward(ctx, *gradients):
        (gradient,), (hash, sign) = gradients, ctx.saved_tensors
        return gradient.index_select(-1, hash) * sign, None, None, None


class LeadingIndexAdd(ScatterAdd):
    """`_Leading` as a module."""

    def forward(self, x):
        return _Leading.apply(x, self.hash, self.sign, self.output_dim)


class Dense(nn.Module):
    """Product with the p x d matrix of signs."""

    def __init__(self, hash, sign, output_dim):
        super().__init__()
        matrix = sign.new_zeros(len(hash), output_dim)
        matrix[torch.arange(len(hash)), hash] = sign
        self.register_buffer("matrix", matrix)

    def forward(self, x):
        return x @ self.matrix


class _SparseProduct(torch.autograd.Function):
    """Rows times a CSR matrix, and backwards times its transpose, which is kept as CSR too."""

    @staticmethod
    def forward(ctx, x, matrix, transpose):
        ctx.transpose = transpose
        return (x.flatten(0, -2) @ matrix).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, *gradients):
        (gradient,) = gradients
        rows = gradient.flatten(0, -2) @ ctx.transpose
        return rows.view(*gradient.shape[:-1], -1), None, None


class Sparse(Dense):
    """Product with the p x d matrix of signs in CSR form."""

    def __init__(self, hash, sign, output_dim):
        super().__init__(hash, sign, output_dim)
        self.register_buffer("transpose", self.matrix.t().to_sparse_csr())
        self.matrix = self.matrix.to_sparse_csr()

    def forward(self, x):
        return _SparseProduct.apply(x, self.matrix, self.transpose)


FORMS = {
    "scatter_add_": ScatterAdd,
    "index_add_": IndexAdd,
    "index_add_, features leading, gather backward": LeadingIndexAdd,
    "dense product": Dense,
    "CSR product": Sparse,
}


class Level(nn.Module):
    """Compact bilinear product of features [..., p]; where it attends, of maps [B, h, w, p].

    `sketches` are (hash, sign) pairs, `attention` bias and kernel of two layers.
    """

    def __init__(self, form, output_dim, sketches, attention):
        super().__init__()
        self.output_dim = output_dim
        self.sketches = nn.ModuleList(
            FORMS[form](tensor(hash).long(), tensor(sign), output_dim) for hash, sign in sketches
        )
        self.attention = nn.ParameterList(tensor(array) for array in attention)

    def forward(self, *features):
        product = None
        for x, sketch in zip(features, self.sketches, strict=True):
            spectrum = torch.fft.rfft(sketch(x))
            product = spectrum if product is None else product * spectrum
        fused = torch.fft.irfft(product, n=self.output_dim)
        return self.attend(features[0], fused) if len(self.attention) else fused

    def attend(self, spatial, fused):
        """Signed square root, unit root mean square, two layers, softmax, weighted sum."""
        y = fused * torch.rsqrt(fused.abs() + 1e-8)
        y = y * (torch.rsqrt((y * y).sum(-1, keepdim=True) + 1e-8) * self.output_dim**0.5)
        bias, kernel, score_bias, score_kernel = self.attention
        scores = torch.relu(y @ kernel + bias) @ score_kernel + score_bias
        weights = F.softmax(scores.flatten(1), -1)
        return torch.einsum("bn,bnc->bc", weights, spatial.flatten(1, 2))


def tensor(array) -> torch.Tensor:
    """An array of NumPy or JAX as a tensor of its own on the device."""
    return torch.tensor(np.asarray(array), device=DEVICE)


def finished(result):
    """The result once the device has it."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return result
