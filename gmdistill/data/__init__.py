"""Text into rows, rows into batches: sources, tokens, splits, samplers."""
