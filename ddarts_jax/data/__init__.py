"""Images: their sources, splits, streams and augmentation."""
