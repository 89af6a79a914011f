"""What crosses a boundary: settings, tables, files, ids, seeds, errors, and how a stage starts.

The foundation layer. It imports no diffusers, no mlflow, no prefect, and torch only where a tensor
is written or read, so that `konomi --help` answers at once.
"""
