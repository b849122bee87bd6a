r"""The authors' genotype text, and the PyTorch weights of its network, for our tasks to go on with.

    python -m ddarts_jax.main --config configs/import.py --config.genotype=TEXT \
        [--config.checkpoint=WEIGHTS.pth.tar] [--config.reductions=2,5] [--config.stem=half] \
        [--workdir DIR]

Writes `genotype.json`, `network.npz` and `import.json`, and prints the command that evaluates them, in
seconds. A `.pth.tar` needs PyTorch (pip install 'ddarts_jax[torch]'); an `.npz` with the arrays of the
state dict under their names does not. The authors' files of 8 cells say reductions=[2, 6] where their
search had its reduction cells at 2 and 5: `--config.reductions=2,5` gives the network of the paper.
Weights of a network for ImageNet fit two stems alike: with three reduction cells, as in DO-2-ResNet18,
`half` is assumed, with two `strided`; `--config.stem` says otherwise.
"""

from ddarts_jax.configuration import import_config


def get_config():
    return import_config()
