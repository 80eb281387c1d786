"""Parses and compares mathematical answers with SymPy and its LaTeX parser, in the processes of `math_fork_server.py`.

Imports nothing of arpo_verl, since the fork server doesn't either.
"""
