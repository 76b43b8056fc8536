"""Diffusion transformer: network, blocks, attention, positions, flow."""
