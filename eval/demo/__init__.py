"""`python -m eval demo`: a local page to ask an agent about an image or a video, and to watch its turns arrive."""

from eval.demo.command import add_arguments, run

__all__ = ["add_arguments", "run"]
