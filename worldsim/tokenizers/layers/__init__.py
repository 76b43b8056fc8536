"""Layers: a frame as a background and a few rigid sprites, each with a pose."""
