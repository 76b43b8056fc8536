"""Planners of other libraries and worldsim's own with each other's interfaces, so that changing over is one line.

One module per library, imported on demand. They are thin: spellings, shapes and units are translated, and the search is
the one loop of `worldsim.planners`.
"""
