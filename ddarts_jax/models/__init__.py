"""Flax modules: primitives, cells, the supernet and the derived network."""
