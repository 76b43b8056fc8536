"""Episodes on disk, clip windows, latent cache, starts, and behaviours for collection."""
