"""`arpo-verl doctor`: checks of a machine, its tools and a run's data, one line each."""
