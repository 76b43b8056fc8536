"""From a judge's log-odds to probabilities, and how good they are on other policies' episodes."""
