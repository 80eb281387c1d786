"""One prompt -> exactly n leaves: the tree, the scheduler, the tool-call syntax. Knows nothing of verl."""
