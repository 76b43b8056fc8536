"""Rollouts of a triage run: replayed decisions, batches, workers and the store."""
