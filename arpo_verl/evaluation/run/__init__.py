"""Answers of a model to a benchmark, with the agent loop and the tools of training."""
