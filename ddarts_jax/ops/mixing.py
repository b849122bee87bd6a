"""The mixture of all primitives' outputs, joined with the BatchNorm at the end of each primitive.

BatchNorm's gradient needs the sums of `cotangent` and of `cotangent * standardised` over images and
pixels; the gradient of a gate is the latter, summed over the channels. So one pass over the primitives'
outputs gives all these sums, and a second one their cotangents.

Axes: images B, height H, width W, targets T (the nodes that the mixtures go to), sources S (those that
they come from), channels C. A primitive without weights gives the same to every target: its T is 1.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ddarts_jax.ops.normalisation import EPSILON, moments, sums

_KEPT = 3  # T, S and C: all other axes are summed over


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mix(standardised, outputs, shifts, gates):
    """Standardises the outputs over the batch and adds them up, weighted by the gates.

    Args:
        standardised: a bool for each output; those of primitives without BatchNorm are not standardised.
        outputs: tuple of arrays [B, H, W, T or 1, S, C] in the compute dtype.
        shifts: tuple, for each standardised output [T or 1, S, C]; see `moments`. Without gradient.
        gates: tuple, for each output [T, S].

    Returns:
        [B, H, W, T, C] in the compute dtype; for each standardised output its mean and (biased)
        variance [T or 1, S, C], float32 or better, without gradients.
    """
    return _mix_forward(standardised, outputs, shifts, gates)[0]


@functools.partial(jax.jit, static_argnums=0)
def _mix_forward(standardised, outputs, shifts, gates):
    moving = [x for x, moves in zip(outputs, standardised) if moves]
    found = moments(moving, shifts, _KEPT) if moving else []
    scales = tuple((mean, lax.rsqrt(variance + EPSILON)) for mean, variance in found)
    each, total = iter(scales), 0
    for output, gate, moves in zip(outputs, gates, standardised):
        wide, scale = _wide(output), gate[..., None]
        if moves:
            mean, inverse = next(each)
            wide, scale = wide - mean, scale * inverse
        total += _added_up(wide * scale, 4)
    return (total.astype(outputs[0].dtype), tuple(found)), (outputs, shifts, scales, gates)


@functools.partial(jax.jit, static_argnums=0)
def _mix_backward(standardised, residuals, cotangents):
    outputs, shifts, scales, gates = residuals
    cotangent = _wide(cotangents[0])[..., None, :]
    count = cotangent.size // cotangent[0, 0, 0].size
    each = iter(scales)
    factors = [next(each) if moves else (0, 1) for moves in standardised]
    values = [(_wide(x) - mean) * inverse for x, (mean, inverse) in zip(outputs, factors)]
    total, *along = sums([cotangent, *(cotangent * value for value in values)], _KEPT)

    to_outputs, to_gates = [], []
    for x, value, own, gate, (_, inverse), moves in zip(
        outputs, values, along, gates, factors, standardised
    ):
        to_output = cotangent
        if moves:
            to_output = cotangent - total / count - value * (own / count)
        to_output = to_output * (gate[..., None] * inverse)
        if x.shape[3] == 1:
            to_output = _added_up(to_output, 3)[:, :, :, None]
        to_outputs.append(to_output.astype(x.dtype))
        to_gates.append(jnp.sum(own, -1).astype(gate.dtype))
    return tuple(to_outputs), jax.tree.map(jnp.zeros_like, shifts), tuple(to_gates)


mix.defvjp(_mix_forward, _mix_backward)


def _added_up(x, axis):
    """Sums over a short axis by additions, which XLA fuses into what is around them.

    XLA's CPU compiler (JAX 0.10) also gets such a reduction wrong: some of its results are not written.
    """
    return sum(lax.index_in_dim(x, k, axis, keepdims=False) for k in range(x.shape[axis]))


def _wide(x):
    """Casts to float32 or better."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
