"""What the pages of several rooms share: style sheet, charts, number formats, embedded pictures.

A page holds everything it shows and asks no other machine for anything. What it says is its own
room's business.
"""
