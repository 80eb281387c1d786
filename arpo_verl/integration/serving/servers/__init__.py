"""Inference servers, one a file: `<name>.py` has the class `<Name>`, an `InferenceServer`; nothing else lists them."""
