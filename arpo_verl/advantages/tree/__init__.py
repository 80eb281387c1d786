"""What advantages are computed from: the batch with its trees, and the arithmetic that they share."""
