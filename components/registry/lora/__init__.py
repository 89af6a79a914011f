"""A LoRA on its way into the registry: its file, its gates, its probe image, its card."""
