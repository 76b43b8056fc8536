"""Predictors of the next latent: rigid motion, convolution, diffusion transformer."""
