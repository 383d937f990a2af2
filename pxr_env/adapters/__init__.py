"""Thin covers of `ToolSession` for other packages; each module imports its package and is imported by nobody else."""
