"""Times how fast a folder of JPEG images is decoded and cropped, and prints one JSON line.

    python benchmarks/input_stream.py                      # 20,000 images of 256 px, 0 to 4 workers
    python benchmarks/input_stream.py --count 2000 --workers 0 2 --directory /tmp/images

The images are smooth noise in ten classes; their files are about as large as those of photographs. They
are written to `--directory`, or to a temporary folder that is deleted at the end; an existing directory
is used as it is. For each number of workers, batches are read for `--seconds`, from the start of an
epoch, after the first ones have arrived (workers take seconds to start, which is reported separately).
The load shows how busy the machine was with other work.
"""

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path

import harness
import numpy as np
from PIL import Image

from ddarts_jax.configuration import default_config
from ddarts_jax.data import records as encoded
from ddarts_jax.data import stream

_CLASSES = 10


def write_images(directory: Path, count: int, size: int):
    """Writes JPEG images, equally many per class: coarse noise scaled up, plus fine noise."""
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
    """Measures images per second with a number of workers, and the seconds until the first batch."""
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
        for _ in range(4 * max(1, num_workers)):  # decoded ahead while the workers started
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
    parser = harness.parser(__doc__, size=256, batch=128)
    parser.add_argument("--count", type=int, default=20_000, help="images")
    parser.add_argument("--crop", type=int, default=224, help="pixels per side of a crop")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--seconds", type=float, default=20.0, help="per number of workers")
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
        data = default_config().data
        data.name, data.test_fraction = f"folder:{directory}", 0.1
        records, _ = encoded.open_records(data)
        listed = time.perf_counter()
        some = [path.stat().st_size for path in sorted(directory.rglob("*.jpg"))[:100]]
        streams = [measure(records, arguments, number) for number in arguments.workers]
    options = vars(arguments) | {"directory": arguments.directory or "temporary"}
    results = {
        "kilobytes_per_image": round(np.mean(some) / 1000, 1),
        "write_s": round(written - begun, 1),
        "list_s": round(listed - written, 2),
        "results": streams,
    }
    harness.report("input_stream", options, results, packages=["grain", "pillow", "numpy"])


if __name__ == "__main__":
    main()
