"""What the loss `composed` is made of: ratio, bounds and clip, weights of tokens, the entropy band, and metrics."""
