"""Push-v0: push a T-shaped block to a goal disc."""
