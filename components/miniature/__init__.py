"""The miniature world: a small, real text-to-image world that needs no GPU and no model hub."""
