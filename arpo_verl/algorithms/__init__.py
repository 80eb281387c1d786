"""The estimator and its segment ids for programs that have no verl; `arpo_verl.advantages` has the advantages."""
