"""A trained network as a folder for people who do not have this package.

    python -m ddarts_jax.main --config configs/export.py --config.run=RUN --config.output=DIR

RUN is the workdir of a training, also of a detector. DIR gets `genotype.json`,
`weights.safetensors`, `meta.json` (preprocessing, class names, accuracy, versions), `model.stablehlo`
(runs with JAX alone), `README.md` (how to use them) and, after pip install 'ddarts_jax[onnx]',
`model.onnx`. Each file is read again in a process without this package and compared with the trained
network on the whole test set (a detector: on 50 test images, and by its AP), for which the data must
still be where they were. Own images:

    python -m ddarts_jax.predict DIR IMAGE...
"""

from ddarts_jax.configuration import export_config


def get_config():
    return export_config()
