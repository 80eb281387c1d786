"""A table of trees, one row a leaf, as TensorBoard and W&B show it."""
