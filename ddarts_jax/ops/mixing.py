"""The mixture of all primitives' outputs, joined with the BatchNorm at the end of each primitive.

BatchNorm's gradient needs the sums of `cotangent` and of `cotangent * standardised` over images and pixels;
the gradient of a gate is the latter, summed over the channels. So one pass over the primitives' outputs
gives all these sums, and a second one their cotangents.

Axes: images B, height H, width W, targets T (the nodes that the mixtures go to), sources S (those that they
come from), channels C. Primitives without weights give the same to every target: their T is 1.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ddarts_jax.ops.normalisation import EPSILON, shifted_moments

_PIXELS = (0, 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mix(standardised, outputs, shifts, gates):
    """Standardises the outputs over the batch and adds them up, weighted by the gates.

    Args:
        standardised: a bool for each primitive; those that end without BatchNorm are not standardised.
        outputs: for each primitive [B, H, W, T or 1, S, C], in the compute dtype.
        shifts: for each standardised primitive [T or 1, S, C], near the means of its outputs; see
            `shifted_moments`. Without gradient.
        gates: [primitives, T, S].

    Returns:
        [B, H, W, T, C] in the compute dtype; for each standardised primitive its mean and (biased)
        variance [T or 1, S, C], float32 or better, without gradients.
    """
    return _mix_forward(standardised, outputs, shifts, gates)[0]


@functools.partial(jax.jit, static_argnums=0)
def _mix_forward(standardised, outputs, shifts, gates):
    shifts = iter(shifts)
    moments, scales, total = [], [], 0
    for o, output in enumerate(outputs):
        wide = output.astype(jnp.promote_types(output.dtype, jnp.float32))
        scale = gates[o][:, :, None]
        if standardised[o]:
            mean, variance = shifted_moments(output, _PIXELS, next(shifts))
            inverse = lax.rsqrt(variance + EPSILON)
            moments.append((mean, variance))
            scales.append((mean, inverse))
            wide, scale = wide - mean, scale * inverse
        total += jnp.sum(wide * scale, axis=-2)
    total = total.astype(outputs[0].dtype)
    return (total, tuple(moments)), (outputs, tuple(scales), gates)


@functools.partial(jax.jit, static_argnums=0)
def _mix_backward(standardised, residuals, cotangents):
    outputs, scales, gates = residuals
    dtype = jnp.promote_types(outputs[0].dtype, jnp.float32)
    cotangent = cotangents[0].astype(dtype)[..., None, :]
    count = cotangent.shape[0] * cotangent.shape[1] * cotangent.shape[2]
    total = jnp.sum(cotangent, _PIXELS)
    scales = iter(scales)
    to_outputs, to_gates = [], []
    for o, output in enumerate(outputs):
        wide, gate = output.astype(dtype), gates[o][:, :, None]
        if standardised[o]:
            mean, inverse = next(scales)
            wide = (wide - mean) * inverse
            along = jnp.sum(cotangent * wide, _PIXELS)
            to_output = (cotangent - total / count - wide * (along / count)) * (gate * inverse)
        else:
            along = jnp.sum(cotangent * wide, _PIXELS)
            to_output = cotangent * gate
        to_gates.append(jnp.sum(along, -1))
        if output.shape[3] == 1:
            to_output = jnp.sum(to_output, 3, keepdims=True)
        to_outputs.append(to_output.astype(output.dtype))
    to_shifts = [jnp.zeros_like(mean) for mean, _ in residuals[1]]
    return tuple(to_outputs), tuple(to_shifts), jnp.stack(to_gates).astype(gates.dtype)


mix.defvjp(_mix_forward, _mix_backward)
