"""One algorithm a file: tensors in, tensors out."""
