"""One file tells one method: paper, equations, deviations, settings, loss.

Importing a method costs no torch, since settings are checked before anything heavy is loaded; that
is why the methods' own functions import what they compute with.
"""
