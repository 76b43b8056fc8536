"""Training a critic: supervised, by reward, and the vision warm-up."""
