"""Scores of answers, and comparisons of scores."""
