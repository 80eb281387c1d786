"""A language model as judge: its prompt, its replies, and the file of its verdicts."""
