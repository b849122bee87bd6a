r"""Marginal contributions: the change of the loss due to each cell (D-DARTS section 3.2).

`M_i = L_CE(C) - L_CE(C \ {C_i})`: below zero where cell i helps. Removing a cell makes its output zero
(`removal="zero"`), hands its inputs on (`removal="bypass"`), or replaces its gates with random numbers,
as in the authors' program (`removal="random"`). With a last cell of zero a network answers the same to
every image, so that cell's contribution dwarfs the others; that of a cell passed by need not.

The N ablated networks run as a `vmap` over *streams*: stream d is the network without distinct cell d.
Up to the position of cell d, its stream equals the full network, so a cell only sees the streams that
already differ: exactly N(N-1)/2 cell evaluations instead of N*N. A cell that occurs several times
(DARTOpti) is removed everywhere at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddarts_jax.distributed import sharding
from ddarts_jax.models.classification import cross_entropy
from ddarts_jax.models.layers import Variables
from ddarts_jax.models.supernet import Supernet, forward


class Contributions(NamedTuple):
    r"""Losses of the full and the ablated networks on one batch, and their gradients.

    Attributes:
        loss: L_CE(C), scalar.
        ablated_losses: [cells], L_CE(C \ {C_i}); None if not requested.
        gradient: [cells, E, columns], g = dL_CE(C) / dalpha.
        ablated_gradient: [cells, E, columns], h = d mean_j L_CE(C \ {C_j}) / dalpha; None if not
            requested.
        accuracy: accuracy of the full network, a fraction.
        mean_shares: [cells], share of each cell in mean(M) and mean_j; None: all have the same.
    """

    loss: jax.Array
    ablated_losses: jax.Array | None
    gradient: jax.Array
    ablated_gradient: jax.Array | None
    accuracy: jax.Array
    mean_shares: jax.Array | None = None

    @property
    def marginal(self):
        """M [cells] (D-DARTS equation 3)."""
        return self.loss - self.ablated_losses

    @property
    def mean(self):
        """The mean contribution, a scalar."""
        return self._averaged(self.marginal)

    @property
    def spread(self):
        """Standard deviation of M over the cells of the mean, a scalar."""
        return jnp.sqrt(self._averaged((self.marginal - self.mean) ** 2))

    def _averaged(self, values):
        return values.mean() if self.mean_shares is None else jnp.sum(self.mean_shares * values)


def ablated_losses(
    supernet: Supernet,
    variables: Variables,
    gates,
    outputs,
    labels,
    table=None,
    bypass=False,
    microbatch=0,
):
    """Cross-entropy of the network without each of its distinct cells.

    Args:
        supernet: structure.
        variables: weights and statistics; BatchNorm uses the batch, no statistics change.
        gates: [cells, E, G].
        outputs: outputs of the full network, from `supernet.forward`, which the streams share.
        labels: [B].
        table: None removes a cell by a zero output; [cells, E, G] replaces its gates with these numbers.
        bypass: a removed cell hands its inputs on, see `supernet.Cell.bypass`; not with a table.
        microbatch: see `contributions`.

    Returns:
        [cells].
    """
    streams = []  # Distinct cells already removed upstream, in order of their first position.
    before_last = last = Outputs(outputs[0], [], None)
    for position, distinct in enumerate(supernet.seq):
        if distinct not in streams:
            streams.append(distinct)
        # Without a table the removed cell itself need not be computed.
        running = [d for d in streams if table is not None or d != distinct]
        removed = None if table is not None else distinct
        rows = None
        if running:
            own = gates[distinct]
            if table is not None:
                own = jnp.stack([(table if d == distinct else gates)[distinct] for d in running])

            def run(s0, s1, own, position=position):
                return supernet.run_cell(position, variables, s0, s1, own, True)[0]

            rows = _over_streams(run, (before_last, last), running, own, microbatch)
        instead = None
        if bypass:
            inputs = before_last.of(distinct), last.of(distinct)
            instead = supernet.bypass_cell(position, variables, *inputs)
        before_last, last = last, Outputs(outputs[position + 1], running, rows, removed, instead)
    features = jnp.stack([last.of(d) for d in sorted(streams)])
    logits = jax.vmap(lambda x: supernet.run_head(variables, x))(features)
    return jax.vmap(cross_entropy, in_axes=(0, None))(logits, labels)


class Outputs(NamedTuple):
    """The outputs of a cell in every stream.

    Attributes:
        full: the output in the full network, and so in every stream that does not differ yet.
        streams: the streams that differ.
        rows: their outputs [streams, ...]; None if there are no such streams.
        removed: the stream in which this cell is removed; None if there is none.
        instead: its output there; None: zero.
    """

    full: jax.Array
    streams: list[int]
    rows: jax.Array | None
    removed: int | None = None
    instead: jax.Array | None = None

    def of(self, stream):
        """The output in one stream."""
        if stream == self.removed:
            return jnp.zeros_like(self.full) if self.instead is None else self.instead
        return self.rows[self.streams.index(stream)] if stream in self.streams else self.full

    def place(self, stream) -> int:
        """The number under which `at` finds a stream."""
        places = [*self.streams, self.removed]
        return places.index(stream) if stream in places else len(places)

    def at(self, place):
        """The output at a place that is known only at run time."""
        count = len(self.streams)
        instead = 0 if self.instead is None else self.instead
        other = jnp.where(place == count, instead, self.full)
        return jnp.where(place < count, self.rows[place], other) if count else other


def _over_streams(run, sources, streams, own, microbatch):
    """Runs a cell that reads from two `Outputs`: all streams at once, or `microbatch` at a time."""
    shared = own.ndim == 2
    if not microbatch:
        inputs = (jnp.stack([source.of(stream) for stream in streams]) for source in sources)
        return jax.vmap(run, in_axes=(0, 0, None if shared else 0))(*inputs, own)

    @jax.checkpoint
    def run_one(item):
        # By place, not by value, so that no stack of inputs has to be kept for the backward pass.
        inputs = (source.at(place) for source, place in zip(sources, item))
        return run(*inputs, own if shared else own[item[2]])

    places = [jnp.array([source.place(stream) for stream in streams]) for source in sources]
    items = (*places, jnp.arange(len(streams)))
    return jax.lax.map(run_one, items, batch_size=microbatch if microbatch > 1 else None)


def contributions(
    supernet: Supernet,
    variables: Variables,
    alphas,
    images,
    labels,
    *,
    progress=1.0,
    key=None,
    ablate: bool = True,
    gradient: str = "full",
    mean_shares=None,
    microbatch: int = 0,
    **removal,
) -> Contributions:
    """Measures every cell's contribution on one batch, with exact gradients for all cells.

    Two backward passes suffice for all cells: the network without cell i does not depend on alpha_i, so
    dM_i/dalpha_i = g_i, and d mean(M)/dalpha_i = g_i - h_i. Both passes go through the full network
    together; only the second goes through the ablated ones, which share the full network's outputs
    before the removed cell.

    Args:
        supernet: structure.
        variables: weights and statistics.
        alphas: [cells, E, columns], float32.
        images: [B, H, W, channels], normalised.
        labels: [B].
        progress: see `Relaxation.gates`.
        key: likewise.
        ablate: False skips the ablated networks (w_AB = 0).
        gradient: "full", or "none" to measure the ablated networks without differentiating them.
        mean_shares: see `Contributions`.
        microbatch: number of ablated networks run at once; their activations are rematerialised,
            trading time for memory. 0: all run at once, by `vmap`, without rematerialisation.
        **removal: `table` or `bypass` of `ablated_losses`.

    Returns:
        `Contributions`.
    """

    def full(alphas):
        gates = supernet.gates(alphas, progress, key)
        logits, outputs, _ = forward(supernet, variables, gates, images, True)
        accuracy = jnp.mean(jnp.argmax(logits, -1) == labels, dtype=jnp.float32)
        return (cross_entropy(logits, labels), outputs), accuracy

    def ablated(alphas, outputs):
        with jax.named_scope("marginal_contributions"):
            gates = supernet.gates(alphas, progress, key)
            network = supernet, variables, gates, outputs
            return ablated_losses(*network, labels, microbatch=microbatch, **removal)

    differentiated = ablate and gradient == "full"
    if microbatch and differentiated:
        # Keeps its activations out of memory while the ablated networks run.
        full = jax.checkpoint(full)
    (loss, outputs), pull_back, accuracy = jax.vjp(full, alphas, has_aux=True)
    no_outputs = jax.tree.map(jnp.zeros_like, outputs)
    if not differentiated:
        losses = ablated(alphas, outputs) if ablate else None
        (g,) = pull_back((jnp.ones_like(loss), no_outputs))
        return sharding.mean(Contributions(loss, losses, g, None, accuracy, mean_shares))

    losses, pull_back_ablated = jax.vjp(ablated, alphas, outputs)
    shares = jnp.full_like(losses, 1 / len(losses)) if mean_shares is None else mean_shares
    h_ablated, through_outputs = pull_back_ablated(shares)
    cotangents = (
        jnp.array([1, 0], loss.dtype),
        jax.tree.map(lambda *pair: jnp.stack(pair), no_outputs, through_outputs),
    )
    if microbatch:
        (both,) = jax.lax.map(pull_back, cotangents)
    else:
        (both,) = jax.vmap(pull_back)(cotangents)
    h = both[1] + h_ablated
    return sharding.mean(Contributions(loss, losses, both[0], h, accuracy, mean_shares))
