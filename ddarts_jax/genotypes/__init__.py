"""Architectures as data: genotypes, handcrafted networks, distances. NumPy only."""
