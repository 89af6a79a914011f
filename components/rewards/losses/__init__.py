"""Losses of reward models, one idea a file. Pure: tensors in, tensors out."""
