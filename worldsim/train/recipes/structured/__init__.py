"""Training of structured worlds, stage by stage."""
