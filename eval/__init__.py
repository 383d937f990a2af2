"""Evaluation: run an agent on a task, measure, and show every episode."""
