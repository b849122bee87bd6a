"""The search: architecture gradients, the bilevel step, and what comes out of it."""
