"""Reads mathematical answers and compares them, in the processes of `math_helper.py`: SymPy and its parser of LaTeX.

Imports nothing of arpo_verl, since the helper doesn't either.
"""
