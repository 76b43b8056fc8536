"""Labelling recorded episodes: which to ask about next, and the local page that asks."""
