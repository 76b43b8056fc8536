"""Frames to latents and back: rigid layers, Haar wavelets with PCA, causal autoencoders."""
