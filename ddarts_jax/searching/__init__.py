"""The search: architecture gradients, the bilevel step and the resulting genotype."""
