"""Pages and pictures that explain a run."""
