"""Selection by perturbation: what is kept is what the supernet misses most (DARTS-PT, Wang et al. 2021).

Alphas say how much a primitive contributes to a sum that was trained with all others. Here the loss is
measured that each primitive's removal adds: the best one of an edge is the one whose removal adds most,
and a node's two edges are those whose removal adds most. It is the idea of marginal contributions, one
level down.

DARTS-PT decides one edge after the other and trains the supernet for some epochs after each decision, two
and a half times as long as the search. Here all removals are from the supernet as it is, without that
tuning, and all removals of an edge run as one `vmap`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ddarts_jax.distributed import sharding
from ddarts_jax.genotypes.derivation import with_few_skips
from ddarts_jax.genotypes.genotype import Genotype, parse
from ddarts_jax.models.classification import cross_entropy
from ddarts_jax.models.supernet import Supernet
from ddarts_jax.searching import discretisation
from ddarts_jax.training import feeds


def make_losses(
    net: Supernet, dataset, split, count: int, batch_size: int, dtype
) -> Callable[..., np.ndarray]:
    """Builds the function that measures the supernet's loss under several gates at once.

    BatchNorm uses the batch, as in the steps of the search.

    Args:
        net: the supernet.
        dataset: images, in memory or streamed.
        split: split of the alphas, see `discretisation.make_measure`.
        count: images to use, rounded down to whole batches, at least one.
        batch_size: images per batch.
        dtype: compute dtype.

    Returns:
        `(variables, gates [variants, cells, E, G]) -> losses [variants]`, cross-entropy.
    """
    mesh = sharding.data_mesh(batch_size)
    data = feeds.some_batches(dataset, split, count, batch_size, mesh)
    logits = discretisation.make_logits(net, dataset.mean, dataset.std, dtype, mesh)

    @jax.jit
    def of_batch(variables, gates, images, labels):
        def loss(gates):
            return cross_entropy(logits(variables, gates, images), labels)

        return jax.vmap(loss)(gates)

    def losses(variables, gates):
        return np.mean([of_batch(variables, gates, *batch) for batch in data], axis=0)

    return losses


def removals(net: Supernet, variables, alphas, losses: Callable) -> np.ndarray:
    """Measures the loss that the removal of each primitive, and of each whole edge, adds.

    Args:
        net: structure.
        variables: weights and statistics of the trained supernet.
        alphas: [distinct cells, E, columns].
        losses: from `make_losses`.

    Returns:
        float32 [distinct cells, E, O + 1], the last column for the whole edge.
    """
    gates = np.asarray(net.gates(jnp.asarray(alphas)))
    count = len(net.primitives)
    found = np.zeros((*gates.shape[:2], count + 1), np.float32)
    for cell, edge in np.ndindex(gates.shape[:2]):
        # The intact supernet first, so that the differences are of losses computed alike.
        variants = np.repeat(gates[None], count + 2, axis=0)
        for o in range(count):
            variants[1 + o, cell, edge, o] = 0
        variants[-1, cell, edge] = 0
        whole, *without = losses(variables, variants)
        found[cell, edge] = np.array(without) - whole
    return found


def select(net: Supernet, added: np.ndarray, max_skips: int = -1) -> Genotype:
    """Keeps two edges of each node and one primitive on each, those whose removal adds most.

    Args:
        net: structure.
        added: from `removals`.
        max_skips: skip connections that a normal cell may have; -1: any number.
    """
    whole = added[..., -1:]

    def derive(primitives):
        best = primitives.argmax(-1)[..., None] == np.arange(primitives.shape[-1])
        # DARTS's rule on scores in which an edge counts as much as its removal adds.
        scores = np.where(best, whole, whole.min() - 1)
        return parse(scores, net.primitives, "darts", 0.0, net.reductions, net.sharing)

    own = added[..., :-1].astype(np.float64)
    positive = own - own.min() + 1  # in the same order, and above 0 as probabilities are
    return with_few_skips(positive, net.primitives, max_skips, derive)
