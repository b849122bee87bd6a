"""Packaging. Lower bounds are the versions that the tests ran with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

_HERE = Path(__file__).parent

setup(
    name="ddarts_jax",
    # Read, not imported: what the package imports is not there while it is built.
    version=re.search(
        '^__version__ = "(.+?)"', (_HERE / "ddarts_jax/__init__.py").read_text(), re.M
    )[1],
    description="D-DARTS: distributed differentiable architecture search in JAX/Flax",
    long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    packages=[*find_packages(include=["ddarts_jax", "ddarts_jax.*"]), "ddarts_jax.configs"],
    package_dir={"ddarts_jax.configs": "configs"},
    package_data={
        "ddarts_jax": ["__init__.pyi", "py.typed"],
        "ddarts_jax.genotypes": ["zoo.json"],
        "ddarts_jax.reports": ["page.css", "page.html.j2", "page.js", "terms.md"],
        "ddarts_jax.tasks.export": ["*.jinja"],
    },
    entry_points={"console_scripts": ["ddarts-jax = ddarts_jax.main:main"]},
    python_requires=">=3.11",
    # Windows has no wheel of array_record, and no locks as a workdir needs them.
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    install_requires=[
        "absl-py>=2.5",
        "array_record>=0.8",
        "flatbuffers>=25.12",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "importlib_resources",
        "jax>=0.10.2",
        "jinja2>=3.1.6",
        "lazy_loader>=0.6",
        "markupsafe>=3.0.4",
        "matplotlib>=3.11",
        "ml_collections>=1.1",
        "numpy>=2.4",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow>=13",
        "plotly>=7.1",
        "pycocotools>=2.0.11",
        "safetensors>=0.8",
        "scikit-learn>=1.9",
        "tensorboardX>=2.6.5",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.70",
    ],
    extras_require={
        "cuda12": ["jax[cuda12]>=0.10.2"],
        # To compile for a GPU where there is none; versions must be that of jaxlib.
        "gpu-compile": ["jax-cuda12-plugin>=0.10.2", "nvidia-cuda-nvcc-cu12>=12.9"],
        # Not newer: later converters pin an orbax-checkpoint that is older than the one above.
        "onnx": ["jax2onnx>=0.13", "onnxruntime>=1.32"],
        "slurm": ["submitit>=1.5.4"],
        "torch": ["torch>=2.13"],
        "docs": [
            "docutils>=0.22",
            "myst-nb>=1.4",
            "myst-parser>=5.2",
            "sphinx>=9.0",
            "sphinx-book-theme>=1.4",
        ],
        "test": [
            "chex>=0.1.92",
            "hypothesis>=6.170",
            "ipykernel>=7.4",
            "mypy>=2.4",
            "nbclient>=0.11",
            "nbformat>=5.11",
            "playwright>=1.65",
            "pytest>=9.2",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            "setuptools>=77",
            "slipcover>=1.1",
            "submitit>=1.5.4",
        ],
    },
)
