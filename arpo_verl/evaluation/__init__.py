"""Evaluation of a model with the tools, limits, prompts and parser of its training: run, score, judge, compare."""
