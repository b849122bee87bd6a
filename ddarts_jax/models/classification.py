"""The classification parts of a network: its heads and its loss."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ddarts_jax.models.layers import BatchNorm, ConvBN, kernel
from ddarts_jax.ops.convolution import convolve
from ddarts_jax.ops.pooling import global_pool


class Head(nnx.Module):
    """Global average pooling and the classifier; logits are float32 or better."""

    def __init__(self, channels, num_classes):
        # Zeros: `layers.initialise` draws the kernel.
        zeros = nnx.initializers.zeros_init()
        self.classifier = nnx.Linear(channels, num_classes, kernel_init=zeros, rngs=nnx.Rngs(0))

    def __call__(self, x, train):
        """Maps features [B, H, W, C] to logits [B, num_classes]."""
        return self.classifier(global_pool(x))


POOL = 5  # side of the auxiliary head's pooling window, in pixels


# Its stride, by stem: the head was designed for features of 8 x 8 (CIFAR) and 7 x 7 (ImageNet).
POOL_STRIDE = {"plain": 3, "half": 2, "strided": 2}


class AuxiliaryHead(nnx.Module):
    """A second classifier half-way, whose loss helps to train the deep network (DARTS, CIFAR).

    For the feature sizes it was designed for (see `POOL_STRIDE`) one position remains; for larger
    features the mean over the positions is taken.
    """

    def __init__(self, channels, num_classes, stride):
        self.stride = stride
        self.project = kernel(1, 1, channels, 128)
        self.project_norm = BatchNorm(128, True)
        self.expand = ConvBN(128, 768, 2, affine=True, padding=0)
        self.head = Head(768, num_classes)

    def __call__(self, x, train):
        """Maps features [B, H, W, channels], with H and W at least `POOL + stride`, to logits."""
        wide = jax.nn.relu(x).astype(jnp.promote_types(x.dtype, jnp.float32))
        pooled = nnx.avg_pool(wide, (POOL, POOL), strides=(self.stride, self.stride))
        x = pooled.astype(x.dtype)
        x = self.project_norm(convolve(x, self.project[...]), train)
        return self.head(jax.nn.relu(self.expand(x, train)), train)


def cross_entropy(logits, labels, label_smoothing: float = 0.0):
    """Mean cross-entropy.

    Args:
        logits: [B, classes], float32 or better.
        labels: [B], integer classes.
        label_smoothing: fraction of the target that is spread evenly over all classes.

    Returns:
        A scalar.
    """
    if label_smoothing:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean()
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
