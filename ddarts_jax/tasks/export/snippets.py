"""Code that reads an exported folder: the model card prints it, and `checks` runs it.

It runs without this package, in the folder itself.
"""

PREPROCESS = """\
import json

import numpy as np

with open("meta.json", encoding="utf-8") as file:
    meta = json.load(file)
mean, std = (np.array(meta["preprocessing"][key], np.float32) for key in ("mean", "std"))


def preprocess(images):  # uint8 [batch, height, width, channels]
    return (images.astype(np.float32) / 255 - mean) / std
"""

STABLEHLO = """\
import jax
import jax.export

with open("model.stablehlo", "rb") as file:
    program = jax.export.deserialize(bytearray(file.read()))
forward = jax.jit(program.call)
"""

ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def forward(x):
    return session.run(["logits"], {"images": x})[0]
"""

SAFETENSORS = """\
from safetensors.numpy import load_file

weights = load_file("weights.safetensors")
"""
