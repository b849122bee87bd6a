"""The loop over steps, checkpoints, and the training and evaluation of a network."""
