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

DETECTOR_PREPROCESS = """\
import json

import numpy as np
from PIL import Image

with open("meta.json", encoding="utf-8") as file:
    meta = json.load(file)
given = meta["preprocessing"]
mean, std = (np.array(given[key], np.float32) for key in ("mean", "std"))


def place(image):  # uint8 [height, width, channels]
    size = np.array(image.shape[:2])
    if given["short_side"]:
        ratio = min(given["short_side"] / min(size), given["long_side"] / max(size))
        size = np.maximum(np.floor(size * ratio + 0.5), 1)
    ratio = min(1, *given["canvas"] / size)  # where the canvas does not hold it
    height, width = size = np.maximum(np.floor(size * ratio + 0.5), 1).astype(np.int32)
    plane = Image.fromarray(image[..., 0] if given["channels"] == 1 else image)
    plane = plane.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(plane, np.float32).reshape(height, width, -1)
    placed = np.zeros((*given["canvas"], given["channels"]), np.float32)
    placed[:height, :width] = (pixels / 255 - mean) / std
    return placed[None], size[None]
"""

DETECT = """\
def detect(image):  # uint8 [height, width, channels]
    placed, size = place(image)
    boxes, scores, classes, count = (np.array(array)[0] for array in forward(placed, size))
    scale = (np.array(image.shape[:2]) / size[0])[[1, 0, 1, 0]]
    return boxes[:count] * scale, scores[:count], classes[:count]
"""

DETECT_MASKS = """\
def detect(image):  # uint8 [height, width, channels]
    placed, size = place(image)
    boxes, scores, classes, count, masks = (np.array(array)[0] for array in forward(placed, size))
    scale = (np.array(image.shape[:2]) / size[0])[[1, 0, 1, 0]]
    return boxes[:count] * scale, scores[:count], classes[:count], masks[:count]
"""

PASTE = """\
def paste(mask, box, height, width):  # from `detect`, and of the image
    def read(start, stop, pixels, parts):  # bilinearly at the centres of pixels, with 0 around the box
        at = (np.arange(pixels) + 0.5 - start) / max(stop - start, 1e-6) * parts - 0.5
        return np.maximum(1 - np.abs(at[:, None] - np.arange(parts)), 0)

    (x1, y1, x2, y2), (rows, columns) = box, mask.shape
    return read(y1, y2, height, rows) @ mask @ read(x1, x2, width, columns).T >= 0.5
"""

DETECTOR_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def forward(images, sizes):
    return session.run(None, {"images": images, "sizes": sizes})
"""

SAFETENSORS = """\
from safetensors.numpy import load_file

weights = load_file("weights.safetensors")
"""
