"""The product: a set as it is learned, on disk, and in its space."""
