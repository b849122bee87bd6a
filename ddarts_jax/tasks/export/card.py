"""The model card of an export, rendered from the template `README.md.jinja` beside this module."""

import json
from pathlib import Path

import jinja2

from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.tasks.export import snippets


def model_card(meta: dict, genotype: Genotype) -> str:
    """Renders the text of `README.md`.

    Args:
        meta: the content of `meta.json`, with the checks.
        genotype: of the exported network.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = "{:,}".format
    return environment.get_template("README.md.jinja").render(
        meta=meta,
        genotype=genotype,
        size=meta["preprocessing"]["image_size"],
        channels=meta["preprocessing"]["channels"],
        crop=meta["preprocessing"]["crop"],
        white=meta["preprocessing"]["white"],
        onnx="model.onnx" in meta["checks"],
        class_names=json.dumps(meta["class_names"], ensure_ascii=False),
        code=snippets,
    )
