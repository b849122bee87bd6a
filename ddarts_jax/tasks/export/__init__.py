"""Task 'export': a trained network or detector as a folder that can be used without this package.

genotype.json        the architecture
weights.safetensors  weights and BatchNorm statistics, named by their paths in the network
meta.json            preprocessing, class names, accuracy, size, versions
model.stablehlo      the forward pass with its weights, any batch size, for CPU and CUDA: needs JAX
model.onnx           the same for ONNX runtimes, where the converter is installed
README.md            the model card, with code that loads each of them

The folder appears only after each file has been read again by that very code, in a fresh process that
cannot import this package, and agrees with the trained network on the whole test set, or with the trained
detector on 50 test images.
"""

from ddarts_jax.tasks.export.formats import stablehlo
from ddarts_jax.tasks.export.task import FILES, run

__all__ = ["FILES", "run", "stablehlo"]
