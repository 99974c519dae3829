"""Who learns: architectures, their weights in and out, which tensor is what."""
