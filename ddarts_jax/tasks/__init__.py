"""What the command line can be asked for besides searching and training."""
