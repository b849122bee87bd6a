"""How alphas become gates: the continuous relaxation of the choice among candidates.

What a search learns is one array, the alphas [distinct cells, E, columns]. On every edge there is a
column for each candidate: `none` first, where the method has it, then the primitives. `none`, the
absence of the edge, takes its share of a softmax but computes nothing. Where edges have strengths
(PC-DARTS), the last column holds those: the betas, a softmax over the edges that lead into a node.
Where pairs of edges compete (DOTS), there is a column for each node that an edge can be paired by: in row
"edge from i to n" and the column of j, later than i, is the beta of the edges into n from i and from j.
How the candidates of an edge compete and how the edges do are independent choices.

Gates [distinct cells, E, G] are what a mixed operation multiplies its parts by: the primitives, then the
auxiliary skip connection (DARTS-), then the channels that pass by (PC-DARTS), where there are any. The
last two columns are the rate and the seed of the dropout of skip connections (P-DARTS), likewise.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.errors import UserError
from ddarts_jax.genotypes import derivation
from ddarts_jax.genotypes.genotype import Genotype, encode, incoming_edges, nodes_of_edges
from ddarts_jax.genotypes.spaces import NONE, STRENGTH, WEIGHTLESS

AUXILIARY = "auxiliary"


def hashable(nested):
    """Nested lists as nested tuples, as `Relaxation.kept` has them."""
    return tuple(map(hashable, nested)) if isinstance(nested, list) else nested


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """A rule that turns alphas into gates.

    Attributes:
        kind: "sigmoid" of every alpha (FairDARTS, D-DARTS); "softmax" over an edge's candidates (DARTS);
            "gumbel", one candidate at a time, drawn from that softmax (GDAS); "dirichlet", shares
            drawn from a Dirichlet distribution (DrNAS); "groups", a softmax over the candidates without
            weights and one over the others (DOTS, first stage); or "balance", a softmax at a low
            temperature over what is left of them (its second stage).
        primitives: names of the candidates besides `none`.
        none: whether `none` is a candidate; only of a softmax, for with sigmoids it competes with
            nothing.
        topology: what the gates of an edge are multiplied by: nothing ("all" edges are alike); its
            share of a softmax over the "edges" into its node (PC-DARTS); or the shares of the "pairs" of
            these edges that hold it (DOTS).
        auxiliary_skip: gate of a further skip connection on every edge at the first epoch, from which it
            falls linearly to 0; 0: there is none.
        partial_channels: K; only one of every K channels is mixed, the others pass by. 1: all are mixed.
        temperature: of "gumbel" at the first epoch; the gradient is that of a softmax at it. Of "pairs"
            and "balance" in the first epoch in which the alphas move.
        final_temperature: of "gumbel" after the last epoch, reached linearly; of "pairs" and "balance"
            in the last epoch, by the same factor in each.
        first_noise: largest change of a share that the weights see at the first epoch (SDARTS-RS).
        noise: after the last epoch, reached linearly; 0: there is none.
        kept: for every distinct cell, edge and candidate whether it is still there (P-DARTS); None: all
            are.
        skip_dropout: rate at which single numbers of a skip connection that is not strided are dropped,
            at the first of `epochs`; see `dropout`. 0: there is no dropout.
        epochs: first epochs, in which the alphas are fixed, and all; what the dropout and the
            temperature of "pairs" follow.
        num_nodes: of a cell; only "pairs" need it.

    Raises:
        UserError: `none` is a candidate of sigmoids, or "groups" has no candidate with weights.
    """

    kind: str
    primitives: tuple[str, ...]
    none: bool = False
    topology: str = "all"
    auxiliary_skip: float = 0.0
    partial_channels: int = 1
    temperature: float = 1.0
    final_temperature: float = 1.0
    first_noise: float = 0.0
    noise: float = 0.0
    kept: tuple[tuple[tuple[bool, ...], ...], ...] | None = None
    skip_dropout: float = 0.0
    epochs: tuple[int, int] = (0, 1)
    num_nodes: int = 0

    def __post_init__(self):
        if self.kind == "sigmoid" and (self.none or self.noise):
            raise UserError(
                "With sigmoid gates candidates do not compete, so `none` cannot be one of them, and "
                "there are no shares that noise could change."
            )
        if self.kind == "groups" and set(self.primitives) <= set(WEIGHTLESS):
            raise UserError(
                "A softmax in groups needs primitives with weights beside those without: name more in "
                f"config.search.space than {', '.join(self.primitives)}."
            )

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of an edge's candidates."""
        return (NONE,) * self.none + self.primitives

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the alphas."""
        if self.topology == "pairs":
            others = range(1, self.num_nodes + 1)
            return self.candidates + tuple(f"{STRENGTH} with {other}" for other in others)
        return self.candidates + (STRENGTH,) * (self.topology == "edges")

    @property
    def weighs_edges(self) -> bool:
        """Whether the gates of an edge are multiplied by its strength."""
        return self.topology != "all"

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of what a mixed operation computes, in the order of the gates."""
        return self.primitives + (AUXILIARY,) * bool(self.auxiliary_skip)

    def of_candidates(self, alphas):
        """The alphas of the candidates alone, without the edges' strengths; -inf where one is gone."""
        own = alphas[..., : len(self.candidates)] if self.weighs_edges else alphas
        return own if self.kept is None else jnp.where(np.array(self.kept), own, -jnp.inf)

    @property
    def kept_primitives(self) -> np.ndarray | None:
        """Which primitives are still there: bool [distinct cells, E, O]; None: all."""
        return None if self.kept is None else np.array(self.kept)[..., self.none :]

    @property
    def kept_modules(self) -> tuple | None:
        """Which of `modules` run, for every distinct cell and edge; None: all do."""
        if self.kept is None:
            return None
        own = self.kept_primitives
        further = np.ones((*own.shape[:2], len(self.modules) - own.shape[2]), bool)
        return hashable(np.concatenate([own, further], -1).tolist())

    def probabilities(self, alphas, temperature=1.0):
        """The share of each primitive: [distinct cells, E, O], between 0 and 1.

        Args:
            alphas: [distinct cells, E, columns].
            temperature: of "balance".
        """
        own = self.of_candidates(alphas)
        if self.kind == "sigmoid":
            return jax.nn.sigmoid(own)
        if self.kind == "groups":
            groups = derivation.groups(self.candidates)
            shares = sum(jax.nn.softmax(jnp.where(group, own, -jnp.inf)) for group in groups)
        elif self.kind == "balance":
            shares = jax.nn.softmax(own / (derivation.BALANCE_TEMPERATURE * temperature))
        else:
            shares = jax.nn.softmax(own)
        return shares[..., 1:] if self.none else shares

    def primitive_shares(self, alphas):
        """The shares of the primitives among themselves, without `none`: [distinct cells, E, O].

        Those of an edge sum to 1, or are 0 where no primitive is left. They and their gradient are finite
        wherever the alphas are, however much `none` outweighs them.
        """
        if self.kind in ("sigmoid", "groups"):
            shares = self.probabilities(alphas)
            return shares / shares.sum(-1, keepdims=True)
        own = self.of_candidates(alphas)[..., self.none :]
        if self.kind == "balance":
            own = own / derivation.BALANCE_TEMPERATURE
        if self.kept is None:
            return jax.nn.softmax(own)
        some = self.kept_primitives.any(-1, keepdims=True)
        return jnp.where(some, jax.nn.softmax(jnp.where(some, own, 0)), 0)

    def betas(self, alphas):
        """Those of the pairs of edges into each node: a list of [distinct cells, pairs], by node."""
        first_column = len(self.candidates)
        return [
            alphas[..., first, first_column + second - first.min() - 1]
            for first, second in (pairs.T for pairs in derivation.pairs_of_edges(self.num_nodes))
        ]

    def strengths(self, alphas, temperature=1.0):
        """The strength of each edge: [distinct cells, E].

        Those into one node sum to 1; of "pairs", as two edges are kept, to 2, and none is above 1.

        Args:
            alphas: [distinct cells, E, columns].
            temperature: of "pairs".
        """
        if self.topology == "pairs":
            nodes = incoming_edges(self.num_nodes)
            found = []
            for betas, pairs, node in zip(
                self.betas(alphas), derivation.pairs_of_edges(self.num_nodes), nodes
            ):
                holds = (pairs[..., None] == np.arange(node.start, node.stop)).any(1)
                shares = jax.nn.softmax(betas / temperature)
                found.append(jnp.sum(shares[..., None] * holds, -2))
            return jnp.concatenate(found, -1)
        betas = alphas[..., -1]
        nodes = incoming_edges(nodes_of_edges(betas.shape[-1]))
        return jnp.concatenate([jax.nn.softmax(betas[..., node]) for node in nodes], -1)

    def gates(self, alphas, progress=1.0, key=None, noisy=False):
        """The gates of a mixed operation: [distinct cells, E, G].

        Args:
            alphas: [distinct cells, E, columns].
            progress: the share of the search's epochs that are over; 1: the search has ended, and there
                is no auxiliary skip connection any more.
            key: random key of what is drawn; None: what is most probable, without noise.
            noisy: whether these are the gates that the weights see.
        """
        annealed = self.kind == "balance" or self.topology == "pairs"
        temperature = self._annealed(progress) if annealed else 1.0
        gates = self.probabilities(alphas, temperature)
        if self.kind == "gumbel":
            gates = self._drawn(alphas, progress, key)
        elif self.kind == "dirichlet":
            gates = self._shared_out(alphas, key)
        elif self.noise and noisy and key is not None:
            gates = self._shaken(gates, progress, key)
        if self.weighs_edges:
            strength = self.strengths(alphas, temperature)[..., None]
            gates = gates * strength
        parts = [gates]
        if self.auxiliary_skip:
            parts.append(jnp.full_like(gates[..., :1], self.auxiliary_skip * (1 - progress)))
        if self.partial_channels > 1:
            parts.append(strength if self.weighs_edges else jnp.ones_like(gates[..., :1]))
        if self.skip_dropout:
            column = jnp.zeros_like(gates[..., :1])
            if key is None:
                parts += [column, column]
            else:
                seed = jax.random.uniform(jax.random.fold_in(key, 2), column.shape, column.dtype)
                parts += [column + self.dropout(progress), seed]
        return jnp.concatenate(parts, -1) if len(parts) > 1 else gates

    def dropout(self, progress):
        """The rate of the dropout of skip connections, by the share of the epochs that are over.

        It falls linearly while the alphas are fixed, begins anew when they move, and falls to e^-3 of
        that by the end: by 0.2 an epoch in P-DARTS's 25 epochs, of which 10 are fixed.
        """
        fixed, total = self.epochs
        epoch = jnp.round(progress * total)
        linear = 1 - (epoch + 1) / total
        falling = jnp.exp(-3 * (epoch - fixed) / max(total - fixed, 1))
        return self.skip_dropout * jnp.where(epoch < fixed, linear, falling)

    def _annealed(self, progress):
        """The temperature of "pairs" and "balance", by the share of the epochs that are over."""
        fixed, total = self.epochs
        epoch = jnp.round(progress * total)
        over = jnp.clip((epoch - fixed) / max(total - fixed - 1, 1), 0, 1)
        return self.temperature * (self.final_temperature / self.temperature) ** over

    def _drawn(self, alphas, progress, key):
        """One candidate of each edge, with the gradient of its probability (straight through)."""
        logits = jax.nn.log_softmax(self.of_candidates(alphas))
        if key is not None:
            logits = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
        temperature = self.temperature + progress * (self.final_temperature - self.temperature)
        soft = jax.nn.softmax(logits / temperature)
        hard = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)
        drawn = jax.lax.stop_gradient(hard - soft) + soft
        return drawn[..., 1:] if self.none else drawn

    def concentrations(self, alphas):
        """Those of "dirichlet", elu(alpha) + 1: [distinct cells, E, candidates]; 0 of what is gone."""
        own = self.of_candidates(alphas)
        # As an exponential, which does not cancel where it is small.
        return jnp.where(own > 0, own + 1, jnp.exp(jnp.minimum(own, 0)))

    def _shared_out(self, alphas, key):
        """Shares of the candidates, drawn with pathwise gradients; without a key their expectation."""
        concentrations = self.concentrations(alphas)
        there = concentrations > 0
        if key is None:
            shares = concentrations / concentrations.sum(-1, keepdims=True)
        else:
            # Normalised gamma variates, as logarithms: small concentrations give very small ones.
            drawn = jax.random.loggamma(key, jnp.where(there, concentrations, 1.0))
            shares = jax.nn.softmax(jnp.where(there, drawn, -jnp.inf))
        return shares[..., 1:] if self.none else shares

    def _shaken(self, shares, progress, key):
        """The shares, each changed at random within bounds, none below 0, and again with their sum."""
        bound = self.first_noise + progress * (self.noise - self.first_noise)
        change = jax.random.uniform(key, shares.shape, shares.dtype, -1.0, 1.0)
        shaken = jnp.maximum(shares + bound * change, 0)
        return shaken * (shares.sum(-1, keepdims=True) / (shaken.sum(-1, keepdims=True) + 1e-12))

    def log_partition(self, alphas):
        """The logarithm of what normalises an edge's gates: [distinct cells, E].

        Its gradient is the gates: descending it makes all of them smaller (beta-DARTS). For sigmoids,
        which are softmaxes over a candidate and its absence, it is the sum over the candidates.
        """
        own = self.of_candidates(alphas)
        if self.kind == "sigmoid":
            return jnp.sum(jax.nn.softplus(own), -1)
        return jax.nn.logsumexp(own, -1)

    def initial(self, key, shape):
        """The alphas at the start of a search: normal numbers near 0, as if all were equal.

        What a low temperature divides is 0, or it would not be equal: the betas of "pairs", and all of
        "balance".
        """
        if self.kind == "balance":
            return jnp.zeros(shape)
        alphas = 1e-3 * jax.random.normal(key, shape)
        betas = len(self.candidates)
        return alphas.at[..., betas:].set(0) if self.topology == "pairs" else alphas

    def encode(self, genotype: Genotype, strength: float):
        """Writes a genotype as alphas, see `genotype.encode`; all edges are equally strong.

        Raises:
            UserError: the genotype has a primitive that is not among the candidates.
        """
        alphas = jnp.asarray(encode(genotype, self.primitives, strength))
        none = jnp.full_like(alphas[..., :1], -strength)
        count = len(self.columns) - len(self.candidates)
        betas = jnp.zeros((*alphas.shape[:-1], count), alphas.dtype)
        return jnp.concatenate([none] * self.none + [alphas, betas], axis=-1)
