"""What is collected and remembered: the state of a method lives here, never in its loss."""
