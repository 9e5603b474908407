"""The store and library for training on spatial transcriptomics."""
