"""What a workdir holds, and what makes a run the same run."""
