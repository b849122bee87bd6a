"""The code of a classifier's model card opens image files as `predict` does."""

import json
import os
import re
import runpy

import numpy as np
import pytest
import tiny
from PIL import Image

from ddarts_jax import predict
from ddarts_jax.tasks.export import card, snippets


def images_of(folder, given):
    """The images that the card's code for JAX hands to the network, read from `image.png`."""
    meta = {
        "data": "photos",
        "class_names": ["cat", "dog"],
        "preprocessing": {"mean": [0.5], "std": [0.25], "formula": "", "channels": 3} | given,
        "test": {"accuracy": 1.0, "images": 1},
        **{"parameters": 1, "macs": 1, "checks": {}},
        **card.written(),
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    text = card.model_card(meta, tiny.GENOTYPE)
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "jax" in block
    )
    forward = "def forward(images):\n    return images.reshape(1, -1)[:, :2]\n"
    (folder / "code.py").write_text(code.replace(snippets.STABLEHLO, forward))
    here = os.getcwd()
    try:
        os.chdir(folder)
        return runpy.run_path("code.py")["images"]
    finally:
        os.chdir(here)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_predict_turns_it(tmp_path, orientation):
    """However the camera held it, the whole image and the central square are the same pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels).resize((90, 60), Image.Resampling.BICUBIC)
    image.save(tmp_path / "image.png", exif=exif)
    for crop in (None, 0.875):
        given = {"image_size": 16, "crop": crop, "white": 0}
        expected = predict._read(tmp_path / "image.png", given | {"channels": 3})
        found = images_of(tmp_path, given)
        assert found.shape == (1, 16, 16, 3)
        # Cropping before turning rounds otherwise than turning before cropping.
        assert abs(found[0].astype(int) - expected).max() <= (1 if crop else 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_as_predict_scales_them(tmp_path, channels):
    """By the range of the training's images; what is brighter is white."""
    ramp = np.linspace(0, 5000, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "image.png")
    given = {"image_size": 8, "crop": None, "white": 4095, "channels": channels}
    found = images_of(tmp_path, given)
    np.testing.assert_array_equal(found[0], predict._read(tmp_path / "image.png", given))
