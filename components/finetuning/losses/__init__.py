"""Pure functions of tensors, without model, logger or setting; docstrings work examples by hand."""
