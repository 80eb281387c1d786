"""What verl and vLLM offer no hook for, one function each. `README.md` beside this file has the table."""
