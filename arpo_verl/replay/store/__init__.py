"""What the sources of replay share: rows, the store that keeps them, groups, weights and files; no torch, no verl."""
