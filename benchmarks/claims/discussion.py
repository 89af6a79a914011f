"""What the figures of a claim mean, and why a claim does not reproduce where it does not.

Words only: every figure of the page is read from the results.
"""

DISCUSSION: dict[str, str] = {}
"""By the claim's number."""
METHODS: dict[str, str] = {}
"""For a method that does not improve over the base here: what its paper needs that the miniature
lacks."""
