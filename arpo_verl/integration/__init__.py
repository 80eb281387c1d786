"""The thin edge to verl, Ray and vLLM."""
