"""Training each token that several rows share once: which tokens are computed, and the attention over them."""
