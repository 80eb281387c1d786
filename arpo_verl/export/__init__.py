"""From a checkpoint of training to a folder that `transformers` and vLLM load."""
