"""From outcomes to a leaderboard: evidence, posterior, judge correction, tiers."""
