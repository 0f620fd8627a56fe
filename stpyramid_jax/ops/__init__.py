"""Pure functions on arrays; imports jax and nothing of this package."""
