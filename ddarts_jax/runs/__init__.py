"""The content of a workdir, and the identity of a run."""
