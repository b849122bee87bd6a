"""Times how fast a folder of JPEG images is decoded and cropped, and prints one JSON line.

    python benchmarks/input_stream.py                      # 20,000 images of 256 px, 0 to 4 workers
    python benchmarks/input_stream.py --count 2000 --workers 0 2 --directory /tmp/images

The images are smooth noise in ten classes, about as large as photographs of their size. They are
written to `--directory`, or to a temporary folder that is deleted at the end; a directory that holds
them already is used as it is. Every number of workers reads `--seconds` long, from the start of an
epoch, after the first batches have come (workers take seconds to start, which is given apart). The
load tells how busy the machine was with other things.
"""

import argparse
import contextlib
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import grain
import numpy as np
import PIL
from PIL import Image

from ddarts_jax.data import records as encoded
from ddarts_jax.data import stream

_CLASSES = 10


def write_images(directory: Path, count: int, size: int):
    """Writes JPEG images, equally many a class: coarse noise scaled up, with fine noise on it."""
    rng = np.random.default_rng(0)
    fine = rng.integers(-12, 13, (4 * size, 4 * size, 3), dtype=np.int16)
    for label in range(_CLASSES):
        (directory / f"class_{label}").mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.int16)
        top, left = rng.integers(0, 3 * size, 2)
        image = smooth + fine[top : top + size, left : left + size]
        image = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        image.save(directory / f"class_{i % _CLASSES}" / f"{i:06}.jpg", quality=90)


def measure(records: encoded.Records, arguments: argparse.Namespace, num_workers: int) -> dict:
    """Images a second with a number of workers, and the seconds until the first batch."""
    images = stream.ImageStream(
        records=records,
        batch_size=arguments.batch,
        image_size=arguments.crop,
        training=True,
        num_workers=num_workers,
    )
    begun = time.perf_counter()
    with contextlib.closing(images.batches()) as batches:
        next(batches)
        started = time.perf_counter()
        for _ in range(4 * max(1, num_workers)):  # what was decoded ahead while they started
            next(batches)
        count, first = 0, time.perf_counter()
        while time.perf_counter() - first < arguments.seconds:
            count += len(next(batches).labels)
        seconds = time.perf_counter() - first
    return {
        "workers": num_workers,
        "images_per_s": round(count / seconds, 1),
        "first_batch_s": round(started - begun, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def main():
    """Writes the images, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("count", 20_000), ("size", 256), ("crop", 224), ("batch", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--directory", type=Path, help="default: a temporary one")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        directory = arguments.directory
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "images"
        begun = time.perf_counter()
        if not directory.exists():
            write_images(directory, arguments.count, arguments.size)
        written = time.perf_counter()
        data = SimpleNamespace(name=f"folder:{directory}", test_fraction=0.1, images_per_class=0)
        records, _ = encoded.open_records(data)
        listed = time.perf_counter()
        some = [path.stat().st_size for path in sorted(directory.rglob("*.jpg"))[:100]]
        results = [measure(records, arguments, number) for number in arguments.workers]
    result = {
        "benchmark": "input_stream",
        **vars(arguments) | {"directory": str(arguments.directory or "temporary")},
        "kilobytes_an_image": round(np.mean(some) / 1000, 1),
        "write_s": round(written - begun, 1),
        "list_s": round(listed - written, 2),
        "results": results,
        "machine": f"{platform.machine()}, {os.cpu_count()} core(s)",
        "versions": {
            "python": platform.python_version(),
            "grain": grain.__version__,
            "pillow": PIL.__version__,
            "numpy": np.__version__,
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
