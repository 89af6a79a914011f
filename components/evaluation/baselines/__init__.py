"""What a person would try before training anything, on the same prompts and by the same judge."""
