"""Bridges to other libraries, each imported on demand only."""
