"""D-DARTS: distributed differentiable architecture search in JAX/Flax."""
