"""Planners of other libraries and worldsim's own behind each other's doors, so that changing over is one line.

One module per library, imported on demand. They are thin: spellings, shapes and units are translated, and the search is
the one loop of `worldsim.planners`.
"""
