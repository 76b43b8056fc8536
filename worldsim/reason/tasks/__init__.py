"""Questions about videos whose answers can be checked, one kind per file. Not for rewards (`worldsim.reason.rewards`)."""
