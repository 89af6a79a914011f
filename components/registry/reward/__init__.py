"""A reward model on its way into the registry: its folder, its gates, its probe, its card."""
