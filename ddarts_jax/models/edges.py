"""The edges of a cell of the supernet, each of which mixes all primitives.

There are two ways to run them, which give the same up to rounding. On a CPU one edge runs after the
other, in a loop. On a GPU, where a kernel that does little costs as much as one that does a lot, all
edges whose sources are known run together: first those from the cell's two inputs to all nodes, then
those that leave node 2, and so on (docs/performance.md).
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from ddarts_jax.genotypes.spaces import SKIP
from ddarts_jax.models import primitives as prim
from ddarts_jax.models.layers import Normalised, apply, split
from ddarts_jax.models.relaxation import AUXILIARY
from ddarts_jax.ops import backend, fusion
from ddarts_jax.ops.mixing import mix
from ddarts_jax.ops.normalisation import KEPT
from ddarts_jax.ops.pooling import max_pool_2x2


class MixedOperation(nnx.Module):
    """All primitives of one edge, weighted by the edge's gates.

    With partial channels (PC-DARTS) the primitives see only the first of every K channels. The others
    pass by, and all are shuffled, so that the next edge mixes others.
    """

    def __init__(self, names: Sequence[str], channels, stride, partial=1, dropout=False):
        # A merged nnx.Dict lists its keys alphabetically, so the gates follow the names, not the Dict.
        self.names = tuple(names)
        self.candidates = nnx.Dict(
            {
                name: prim.create(
                    SKIP if name == AUXILIARY else name, channels // partial, stride, affine=False
                )
                for name in names
            }
        )
        self.stride, self.partial = stride, partial
        self.dropout = dropout and stride == 1

    def __call__(self, x, gates, train, kept=None):
        """Mixes the primitives' outputs, in float32 or better.

        The gradient of a gate is a sum over all images and pixels: in bfloat16 it would be off by
        15% and more.

        Args:
            x: [B, H, W, C].
            gates: [G], the weight of each primitive, then that of the channels that pass by, then rate
                and seed of the dropout.
            train: whether BatchNorm uses the batch.
            kept: bool [O], the primitives that run; None: all.

        Returns:
            [B, H / stride, W / stride, C].
        """
        wide = jnp.promote_types(x.dtype, jnp.float32)
        mixed = x.shape[-1] // self.partial
        x, passed = x[..., :mixed], x[..., mixed:]
        total = 0
        for o, name in enumerate(self.names):
            with jax.named_scope(name):
                if kept is None:
                    output = self.candidates[name](x, train)
                else:
                    output = _if_kept(kept[o], self.candidates[name], x, train)
                output = output.astype(wide)
                if self.dropout and name == SKIP:
                    output = _dropped(output, *gates[-2:])
                total += gates[o] * output
        if self.partial > 1:
            with jax.named_scope("passed"):
                passed = self._halved(passed).astype(wide)
                total = self._shuffled(total, gates[len(self.names)] * passed)
        return total.astype(x.dtype)

    def _halved(self, passed):
        """The channels that pass by, at the size of the edge's output."""
        return max_pool_2x2(passed) if self.stride == 2 else passed

    def _shuffled(self, total, passed):
        """Puts the mixed channels and those that passed by in turns, a mixed one first."""
        whole = jnp.concatenate([total, passed], -1)
        parts = whole.reshape(*whole.shape[:-1], self.partial, -1)
        return jnp.swapaxes(parts, -1, -2).reshape(whole.shape)

    def joined(self, x, gates, train):
        """Does it for E = T * S edges at once, which lead from S sources to each of T targets.

        All parameters and statistics have a leading axis of E edges, by target and then by source. What
        has weights gives the channels of all edges side by side; what has none, those of the sources.

        Args:
            x: [B, H, W, S * C], the sources' channels side by side.
            gates: [T, S, G].
            train: whether BatchNorm uses the batch.

        Returns:
            [B, H / stride, W / stride, T * C], the targets' channels side by side.
        """
        targets, sources, _ = gates.shape
        channels = x.shape[-1] // sources // self.partial
        if self.partial > 1:
            parts = x.reshape(*x.shape[:3], sources, -1)
            x = parts[..., :channels].reshape(*x.shape[:3], -1)
            passed = self._halved(parts[..., channels:].reshape(*x.shape[:3], -1))
        outputs, norms, shifts = [], [], []
        for name in self.names:
            candidate = self.candidates[name]
            weightless = not jax.tree.leaves(nnx.state(candidate, nnx.Param))
            norm = getattr(candidate, "norm", None) if isinstance(candidate, Normalised) else None
            with jax.named_scope(name):
                if norm is not None:
                    output = candidate.unnormalised(x, train)
                    if not train:
                        output = norm(jnp.tile(output, targets) if weightless else output, train)
                elif name == SKIP and self.dropout:
                    output = _dropped_joined(x, gates[..., -2], gates[..., -1])
                elif isinstance(candidate, prim.Identity):
                    output = x
                else:
                    output = _each(candidate, jnp.tile(x, targets), targets * sources, train)
            outputs.append(output.reshape(*output.shape[:3], -1, sources, channels))
            norms.append(norm if train else None)
            if norms[-1] is not None:
                shift = norm.mean[...].reshape(targets, sources, channels)
                shifts.append(shift[: outputs[-1].shape[3]])

        standardised = tuple(norm is not None for norm in norms)
        own_gates = tuple(gates[..., column] for column in range(len(outputs)))
        with jax.named_scope("mix"):
            total, found = mix(standardised, tuple(outputs), tuple(shifts), own_gates)
        for norm, moments in zip(filter(None, norms), found, strict=True):
            norm.update(*moments, math.prod(total.shape[:3]))
        if self.partial > 1:
            with jax.named_scope("passed"):
                passed = passed.reshape(*passed.shape[:3], 1, sources, -1)
                gate = gates[..., len(self.names)]
                passed, _ = mix((False,), (passed,), (), (gate,))
                total = self._shuffled(total, passed)
        return total.reshape(*total.shape[:3], -1)


def _if_kept(kept, candidate, x, train):
    """Runs a primitive where a scalar says so; elsewhere its output is zero, at no cost."""
    graph, variables = split(candidate)

    def run():
        return apply(graph, variables, x, train)

    def leave():
        output, _ = jax.eval_shape(run)
        return jnp.zeros(output.shape, output.dtype), variables.statistics

    output, statistics = lax.cond(kept, run, leave)
    nnx.update(candidate, statistics)
    return output


def _dropped(x, rate, seed):
    """Drops single numbers at a rate, and scales the others so that the expectation stays.

    Args:
        x: any shape.
        rate: scalar below 1.
        seed: scalar from 0 to 1; the same numbers are dropped again for the same seed.
    """
    key = jax.random.key(jnp.uint32(seed * 2**24))
    kept = jax.random.uniform(key, x.shape) >= rate
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def _dropped_joined(x, rates, seeds):
    """The same for the edges from S sources to T targets.

    Args:
        x: [B, H, W, S * C].
        rates: [T, S].
        seeds: [T, S].

    Returns:
        [B, H, W, T * S * C].
    """
    sources = rates.shape[1]
    parts = jnp.moveaxis(x.reshape(*x.shape[:3], sources, -1), 3, 0)
    to_one = jax.vmap(_dropped)
    dropped = jax.vmap(to_one, in_axes=(None, 0, 0))(parts, rates, seeds)
    return jnp.moveaxis(dropped, (0, 1), (3, 4)).reshape(*x.shape[:3], -1)


def _each(candidate, x, count, train):
    """Runs a primitive that knows nothing of joined edges on `count` edges side by side."""
    graph, variables = split(candidate)
    run = jax.vmap(
        lambda variables, x: apply(graph, variables, x, train), in_axes=(0, 3), out_axes=(3, 0)
    )
    output, statistics = run(variables, x.reshape(*x.shape[:3], count, -1))
    nnx.update(candidate, statistics)
    return output.reshape(*output.shape[:3], -1)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _mix(graph, variables, x, gates, train, kept=None):
    """Runs a split `MixedOperation`; jitted, so that edges of the same shape are traced once."""
    return apply(graph, variables, x, gates, train, kept)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _mix_joined(graph, variables, x, gates, train):
    """Runs `joined` of a split `MixedOperation`."""
    return apply(graph, variables, x, gates, train, method="joined")


@jax.custom_vjp
def _kept_apart(x):
    """The identity; its cotangent is computed before it is added to others."""
    return x


_kept_apart.defvjp(lambda x: (x, None), lambda _, cotangent: (fusion.unfused(cotangent),))


class StackedEdges(nnx.Module):
    """Mixed operations of several edges of the same stride: parameters have a leading edge axis.

    Edges of the same stride have parameters of the same shape, so that one computation serves them all.
    Primitives that an edge has lost (`kept`, [edges][O]; None: it has all) do not run where edges run
    one after the other; where edges run together they do, and their gates of 0 leave no trace.
    """

    def __init__(
        self,
        names,
        pairs,
        channels,
        stride,
        *,
        partial=1,
        dropout=False,
        kept=None,
        unroll,
        remat,
    ):
        # One mixed operation, repeated along the edge axis; `initialise` draws every edge separately.
        graph, state = nnx.split(MixedOperation(names, channels, stride, partial, dropout))
        self.mixed = nnx.merge(
            graph, jax.tree.map(lambda leaf: np.stack([leaf] * len(pairs)), state)
        )
        self.pairs, self.kept = tuple(pairs), kept
        self.unroll, self.remat = unroll, remat

    def scanned(self, sources, nodes, gates, train):
        """Adds every edge's output to its target node, one edge at a time.

        `lax.scan` compiles one mixed operation instead of up to fourteen.

        Args:
            sources: [nodes, B, H, W, C] to read from; None reads from `nodes` as they fill.
            nodes: [nodes, B, H', W', C].
            gates: [edges, G].
            train: whether BatchNorm uses the batch.

        Returns:
            `nodes` with the edges' outputs added.
        """
        graph, variables = split(self.mixed)
        mix = jax.checkpoint(_mix, prevent_cse=False, static_argnums=(0, 4)) if self.remat else _mix

        def add_edge(nodes, edge):
            (source, target), gates, variables, kept = edge
            x = _kept_apart((nodes if sources is None else sources)[source])
            output, statistics = mix(graph, variables, x, gates, train, kept)
            return nodes.at[target].add(output), statistics

        pairs = tuple(jnp.array(self.pairs, jnp.int32).T)
        kept = None if self.kept is None else jnp.array(self.kept)
        with jax.named_scope("edges"):
            nodes, statistics = lax.scan(
                add_edge,
                nodes,
                (pairs, gates, variables, kept),
                unroll=min(self.unroll, len(self.pairs)),
            )
        nnx.update(self.mixed, statistics)
        return nodes

    def joined(self, leaving: Sequence[int], x, gates, train):
        """Runs together the edges that leave some of the nodes.

        Args:
            leaving: numbers of the S nodes; all of them have edges to the same T nodes.
            x: [B, H, W, S * C], the nodes' channels side by side.
            gates: [edges, G].
            train: whether BatchNorm uses the batch.

        Returns:
            [B, H', W', T * C], and the edges' statistics, for `update`.
        """
        rows = self.rows(leaving)
        graph, variables = split(self.mixed)
        variables = jax.tree.map(lambda leaf: _rows(leaf, rows), variables)
        gates = _rows(gates, rows).reshape(-1, len(leaving), gates.shape[-1])
        mix = _mix_joined
        if self.remat:
            keep = jax.checkpoint_policies.save_only_these_names(KEPT)
            mix = jax.checkpoint(mix, static_argnums=(0, 4), policy=keep)
        with jax.named_scope("edges"):
            output, statistics = mix(graph, variables, fusion.written(x), gates, train)
        return fusion.written(output), statistics

    def rows(self, leaving: Sequence[int]) -> list[int]:
        """Returns the numbers of the edges that leave any of the nodes `leaving`."""
        return [row for row, (source, _) in enumerate(self.pairs) if source in leaving]

    def update(self, parts: dict[tuple[int, ...], dict]):
        """Takes the new statistics of all edges, given by the nodes that they leave."""
        order = np.argsort([row for leaving in parts for row in self.rows(leaving)])
        joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *parts.values())
        nnx.update(self.mixed, joined)


def _rows(leaf, rows):
    """Takes rows by slices: the transpose of a gather would be a scatter."""
    return jnp.concatenate([leaf[row : row + 1] for row in rows])


@backend.implementation("edges", "scanned")
def run_scanned(strided: StackedEdges | None, plain: StackedEdges | None, inputs, gates, train):
    """Runs all edges of a cell, one after the other.

    Args:
        strided: the edges that leave a reduction cell's inputs; None in a normal cell.
        plain: all other edges; None if there are none.
        inputs: the cell's two inputs, [B, H, W, C] each.
        gates: those of the strided and those of the plain edges, [edges, G] each.
        train: whether BatchNorm uses the batch.

    Returns:
        The intermediate nodes, their channels side by side: [B, H', W', nodes * C].
    """
    inputs = jnp.stack(inputs)
    last = max(target for stack in (strided, plain) if stack for _, target in stack.pairs)
    if strided is None:
        nodes = jnp.concatenate([inputs, jnp.zeros((last - 1, *inputs.shape[1:]), inputs.dtype)])
    else:
        batch, height, width, channels = inputs.shape[1:]
        halved = (batch, (height + 1) // 2, (width + 1) // 2, channels)
        # The two inputs keep their indices, so that node numbers match those of the genotype.
        nodes = jnp.zeros((1 + last, *halved), inputs.dtype)
        nodes = strided.scanned(inputs, nodes, gates[0], train)
    if plain is not None:
        nodes = plain.scanned(None, nodes, gates[1], train)
    return jnp.concatenate(list(nodes[2:]), axis=-1)


@backend.implementation("edges", "joined")
def run_joined(strided, plain, inputs, gates, train):
    """The same computation as `run_scanned`, all edges that can run together at once."""
    channels = inputs[0].shape[-1]
    from_inputs, own_gates = (plain, gates[1]) if strided is None else (strided, gates[0])
    inputs = jnp.concatenate(inputs, axis=-1)
    waiting, statistics = from_inputs.joined((0, 1), inputs, own_gates, train)
    by_source = {(0, 1): statistics}
    if strided is not None:
        strided.update(by_source)
        by_source = {}

    nodes = []
    while waiting.shape[-1] > channels:
        nodes.append(waiting[..., :channels])
        leaving = (1 + len(nodes),)
        output, by_source[leaving] = plain.joined(leaving, nodes[-1], gates[1], train)
        waiting = waiting[..., channels:] + output
    if by_source:
        plain.update(by_source)
    return jnp.concatenate([*nodes, waiting], axis=-1)
