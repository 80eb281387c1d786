"""The thin edge to verl, Ray and vLLM: the only part of arpo_verl that imports them (beside `plugin.py`)."""
