"""The model card of an export, rendered from a template beside this module."""

import datetime
import json
from pathlib import Path

import jinja2

from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.runs import packages
from ddarts_jax.tasks.export import snippets


def model_card(meta: dict, genotype: Genotype) -> str:
    """Renders the text of `README.md` for a classifier, from `README.md.jinja`.

    Args:
        meta: the content of `meta.json`, with the checks.
        genotype: of the exported network.
    """
    return _rendered(
        "README.md.jinja",
        meta,
        genotype,
        size=meta["preprocessing"]["image_size"],
        crop=meta["preprocessing"]["crop"],
    )


def detector_card(meta: dict, genotype: Genotype) -> str:
    """Renders the text of `README.md` for a detector, from `detector.md.jinja`.

    Args:
        meta: the content of `meta.json`, with the checks.
        genotype: of the backbone.
    """
    categories = dict(zip(meta["category_ids"], meta["class_names"]))
    return _rendered(
        "detector.md.jinja",
        meta,
        genotype,
        numbers=meta["test"]["numbers"],
        masks=meta["test"].get("mask_numbers"),
        given=meta["preprocessing"],
        categories=json.dumps(categories, ensure_ascii=False),
    )


def _rendered(template: str, meta: dict, genotype: Genotype, **own) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = "{:,}".format
    return environment.get_template(template).render(
        meta=meta,
        genotype=genotype,
        channels=meta["preprocessing"]["channels"],
        white=meta["preprocessing"]["white"],
        onnx="model.onnx" in meta["checks"],
        class_names=json.dumps(meta["class_names"], ensure_ascii=False),
        code=snippets,
        **own,
    )


def written() -> dict:
    """Returns when and with what an export is written, for its `meta.json`."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": packages.versions("jax", "jaxlib", "flax"),
    }
