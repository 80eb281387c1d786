"""Training's edge to verl: trainer, advantages and losses, what a run keeps when it ends."""
