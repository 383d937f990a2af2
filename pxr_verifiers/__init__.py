"""What `vf-eval pxr_verifiers` finds: verifiers looks for a top-level module of that name."""

from pxr_env.adapters.verifiers import ChatHarness, VisualEnv, VisualEnvConfig, VisualTaskset

__all__ = ["ChatHarness", "VisualEnv", "VisualEnvConfig", "VisualTaskset"]
