"""Questions about videos whose answers can be checked, one kind per file."""
