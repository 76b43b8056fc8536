"""Which (policy, episode) pairs to roll out next."""
