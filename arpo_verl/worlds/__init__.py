"""Question worlds for language models: facts, a corpus to search, questions with one right answer, traces.

They are made on demand and need the extra `worlds`.
"""
