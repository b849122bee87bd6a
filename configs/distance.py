r"""The distance of two networks, cell by cell; of more, the matrix as CSV and a heatmap.

    python -m ddarts_jax.main --config configs/distance.py --config.a=ResNet18 --config.b=ResNet50
    python -m ddarts_jax.main --config configs/distance.py \
        --config.networks="('authors/ResNet18', 'authors/ResNet50', 'runs/x/genotype.json')"

A network is a genotype.json, a file of genotype text, or the name of a handcrafted network (ResNet18,
ResNet50, Xception, InceptionV4; authors/ResNet18 and so on in the authors' encoding) or of a published
one (DARTS_V2, DD-1; docs/zoo.md). Whole runs, with their curves, compare by configs/compare.py.
"""

from ddarts_jax.configuration import distance_config


def get_config():
    return distance_config()
