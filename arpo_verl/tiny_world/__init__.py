"""A world small enough to learn on two cores: made-up facts, a corpus, questions, cold-start traces, a tokenizer, a
model.

`python -m arpo_verl.tiny_world --out DIR` makes all of it. It is there for the quickstart, for tests and for
experiments.
"""
