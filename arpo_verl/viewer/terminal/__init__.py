"""Shows the record of a run in a terminal, with keys where somebody can press them, printed where not."""
