"""The rooms of Konomi: one package per pipeline stage, and the layers that they stand on."""
