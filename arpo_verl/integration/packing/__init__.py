"""verl's FSDP engines computing the tokens that rows share once, and the order of rows in which that pays."""
