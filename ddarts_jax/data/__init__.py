"""Images: where they are from, how they are split, streamed and augmented."""
