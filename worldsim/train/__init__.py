"""Training recipes and the loop they share; Hydra lives here and nowhere else."""
