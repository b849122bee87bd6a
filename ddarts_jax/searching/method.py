"""The interface of a search method: its relaxation and the gradient that the alphas follow."""

from collections.abc import Callable
from typing import NamedTuple

from ddarts_jax.searching import bilevel, stages


class Method(NamedTuple):
    """A search method; `searching.methods` has one module for each.

    Most methods differ only in the gradient of the alphas. A method that steps differently has its own
    `make_step`; a method without a supernet has its own `run`.

    Attributes:
        gradient: `(net, variables, alphas, images, labels, context) -> (gradient, metrics)`, on a batch
            of the architecture split: images [B, H, W, C], labels [B]; context: `bilevel.Context`, with
            the method's options and a random key. The gradient has the shape of the alphas [cells, E,
            columns]; metrics are scalars or [cells], among them the scalars `loss` and `accuracy`.
        relaxation: how alphas become gates: "sigmoid", "softmax" (over the candidates of an edge),
            "gumbel" (one of them, drawn), "dirichlet" (shares, drawn) or "groups" (a softmax over each
            of two groups). The rest follows from options that any method may have: `edge_strengths` or
            `pairs` for the topology, the further fields of `models.relaxation.Relaxation` from `none`
            on, and `beta_decay_weight` at the end of the search, rising linearly from 0.
        share_cells: `(options) -> bool`: one architecture for all normal cells and one for the
            reduction cells (True), or one for every cell.
        make_step: see `bilevel.make_step`.
        stages: `(settings) -> tuple[stages.Stage, ...]`, given section `search` of the config: the
            searches one after the other, mostly one.
        run: `(config, dataset, workdir, writer, dtype) -> Genotype`, a search without a supernet; None:
            the bilevel search.
    """

    gradient: Callable | None
    relaxation: str = "sigmoid"
    share_cells: Callable = lambda options: False
    make_step: Callable = bilevel.make_step
    stages: Callable = stages.by_options
    run: Callable | None = None
