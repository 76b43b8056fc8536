"""Policies: scripted experts, degraders, small pixel and state networks, and loading of any policy by reference.

Not for environments or rankings: a policy sees observations and returns actions, through `worldsim.protocols.Policy`.
"""
