"""Multiple-choice questions about videos in a folder: read, asked, counted; and items written as such a folder.

The layout is that of the public Cosmos-Reason1 benchmark (`worldsim.reason.benchmark.format`).
"""
