"""Recording episodes: environment adapters, exploration, rollouts of policies."""
