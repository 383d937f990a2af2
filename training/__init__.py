"""Training: oracle traces, warm start, PPO with curiosity, the quick start."""
