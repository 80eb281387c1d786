"""Whether trees pay on a task with a model, how to grow them, and what they save: measured before training.

Pure, from the trees of a run's record; `live` alone starts a run, as a process of its own.
"""
