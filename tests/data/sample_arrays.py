"""Twelve small colour images of three classes."""

import numpy as np

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 5, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
