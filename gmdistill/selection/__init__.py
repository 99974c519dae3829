"""Which real rows: coresets and the features that they are chosen by."""
