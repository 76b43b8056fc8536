"""A learned causal autoencoder for images and videos."""
