"""Intervals, correlation, bootstrap and agreement. Needs numpy and scipy, never torch."""
