"""Structured scenes: a canvas, the robot drawn from proprioception, and things with poses."""
