"""Covers of our environments for other packages that need the exact ids of `pxr_agents.chat`, one module each."""
