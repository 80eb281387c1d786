"""Patches for which verl and vLLM offer no hook, one function each. `README.md` beside this file has the table."""
