"""Agents for the environments of `pxr_env`: conversations, engines, the rollout loop, statistics of episodes."""
