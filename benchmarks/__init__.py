"""One file per claim: each prints a table and writes ``benchmarks/results/NAME.json``.

Run as ``python -m benchmarks.NAME``. No library code, and no timed test.
"""
