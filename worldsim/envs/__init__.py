"""Gymnasium both ways: simulated tasks and their renderer, simulators as worlds, and worlds as environments."""
