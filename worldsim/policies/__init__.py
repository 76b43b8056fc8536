"""Policies: scripted experts, degraders, small pixel and state networks, and loading of any policy by reference.

A policy sees observations and returns actions, through `worldsim.protocols.Policy`.
"""
