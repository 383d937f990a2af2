"""Training: oracle traces, warm start, PPO with curiosity, the quick start."""

from pxr_env.two_names import join_names

if __name__ == "training":
    join_names(__name__)
