"""Evaluation: run an agent on a task, measure, and show every episode."""

from pxr_env.two_names import join_names

if __name__ == "eval":
    join_names(__name__)
