"""TV-L1 optical flow."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Real


def gradient(u: Float[Array, "*batch H W"]) -> tuple[Float[Array, "*batch H W"], ...]:
    """Forward differences (d/dx, d/dy) with zero at the far border."""
    lead = [(0, 0)] * (u.ndim - 2)
    return (
        jnp.pad(u[..., 1:] - u[..., :-1], [*lead, (0, 0), (0, 1)]),
        jnp.pad(u[..., 1:, :] - u[..., :-1, :], [*lead, (0, 1), (0, 0)]),
    )


def divergence(px, py):
    """Backward differences, the negative adjoint of `gradient`."""
    lead = [(0, 0)] * (px.ndim - 2)
    px, py = px[..., :-1], py[..., :-1, :]
    dx = jnp.pad(px, [*lead, (0, 0), (0, 1)]) - jnp.pad(px, [*lead, (0, 0), (1, 0)])
    dy = jnp.pad(py, [*lead, (0, 1), (0, 0)]) - jnp.pad(py, [*lead, (1, 0), (0, 0)])
    return dx + dy


def centered(image):
    lead = [(0, 0)] * (image.ndim - 2)
    p = jnp.pad(image, [*lead, (1, 1), (1, 1)], mode="edge")
    return (p[..., 1:-1, 2:] - p[..., 1:-1, :-2]) / 2, (p[..., 2:, 1:-1] - p[..., :-2, 1:-1]) / 2


def cubic_weights(t, a=-0.5):
    return (
        a * t * (1 - t) ** 2,
        1 + t * t * ((a + 2) * t - (a + 3)),
        t * (-a + t * ((2 * a + 3) - (a + 2) * t)),
        a * t * t * (1 - t) * -1 * -1,
    )


def warp(image, u, v):
    """image(x + u, y + v), cubic, [H, W]."""
    H, W = image.shape
    x = jnp.clip(jnp.arange(W, dtype=jnp.float32)[None, :] + u, 0, W - 1)
    y = jnp.clip(jnp.arange(H, dtype=jnp.float32)[:, None] + v, 0, H - 1)
    x0, y0 = jnp.floor(x), jnp.floor(y)
    wx, wy = cubic_weights(x - x0), cubic_weights(y - y0)
    p = jnp.pad(image, 2, mode="edge").reshape(-1)
    base = (y0.astype(jnp.int32) + 1) * (W + 4) + x0.astype(jnp.int32) + 1
    out = 0.0
    for j in range(4):
        for i in range(4):
            out = out + wy[j] * wx[i] * p.at[base + (j * (W + 4) + i)].get(mode="promise_in_bounds")
    return out


def solve(first, second, u, v, lam, warps, iterations, step):
    def warp_once(_, state):
        u0, v0, *p = state
        warped = warp(second, u0, v0)
        gx, gy = (a * 0.5 + b * 0.5 for a, b in zip(centered(first), centered(warped)))
        inv = 1 / (gx * gx + gy * gy + 1e-6)
        c = warped - first - gx * u0 - gy * v0
        tau, sigma = step, 1 / (8 * step)

        def dual(px, py, w):
            dx, dy = gradient(w)
            px, py = px + sigma * dx, py + sigma * dy
            n = lax.rsqrt(jnp.maximum(1.0, px * px + py * py))
            return px * n, py * n

        def iterate(_, state):
            u, v, ub, vb, a, b, d, e = state
            a, b = dual(a, b, ub)
            d, e = dual(d, e, vb)
            un, vn = u + tau * divergence(a, b), v + tau * divergence(d, e)
            r = jnp.clip((c + gx * un + gy * vn) * inv, -lam * tau, lam * tau)
            un, vn = un - r * gx, vn - r * gy
            return un, vn, 2 * un - u, 2 * vn - v, a, b, d, e

        out = lax.fori_loop(0, iterations, iterate, (u0, v0, u0, v0, *p))
        return (out[0], out[1], *out[4:])

    z = jnp.zeros_like(u)
    return lax.fori_loop(0, warps, warp_once, (u, v, z, z, z, z))[:2]


def resize(image, shape):
    return jax.image.resize(image, shape, "linear", antialias=True)


def tvl1(
    first: Real[Array, "*batch H W"],
    second: Real[Array, "*batch H W"],
    *,
    lam: float = 0.15,
    step: float = 0.1,
    scales: int = 5,
    scale_step: float = 0.5,
    warps: int = 3,
    iterations: int = 20,
) -> Float[Array, "*batch H W 2"]:
    """Flow (x, y) in pixels with first(x) ~ second(x + flow)."""
    if first.ndim < 2 or first.shape != second.shape:
        raise ValueError(f"tvl1: first and second need one shape [..., H, W], got {first.shape} and {second.shape}")
    batch, (H, W) = first.shape[:-2], first.shape[-2:]
    sizes = []
    for k in range(scales):
        h, w = round(H * scale_step**k), round(W * scale_step**k)
        if k and min(h, w) < 8:
            break
        sizes.append((h, w))

    def pair(images):
        a, b = images
        u = v = jnp.zeros(sizes[-1], jnp.float32)
        for h, w in reversed(sizes):
            u = resize(u, (h, w)) * (w / u.shape[1])
            v = resize(v, (h, w)) * (h / v.shape[0])
            u, v = solve(resize(a, (h, w)), resize(b, (h, w)), u, v, lam, warps, iterations, step)
        return jnp.stack([u, v], -1)

    flat = lambda x: jnp.asarray(x, jnp.float32).reshape(-1, H, W)  # noqa: E731
    return lax.map(pair, (flat(first), flat(second))).reshape(*batch, H, W, 2)
