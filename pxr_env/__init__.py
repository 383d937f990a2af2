"""Reasoning in pixel space as Gymnasium environments. Importing this package registers the tasks.

>>> import gymnasium
>>> env = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0")
>>> observation, info = env.reset(seed=0)
>>> observation["text"]
'What letter is in the blue box?'
"""

from pxr_env.env import VisualReasoningEnv
from pxr_env.operations import register_operation
from pxr_env.session import AsyncToolSession, ToolSession
from pxr_env.tasks import TASKS, Task, register_task, register_tasks
from pxr_env.types import OperationCall, Sample, SampleSource, Turn
from pxr_env.views import Region, View

__all__ = [
    "TASKS", "AsyncToolSession", "OperationCall", "Region", "Sample", "SampleSource", "Task", "ToolSession", "Turn",
    "View", "VisualReasoningEnv", "register_operation", "register_task",
]  # fmt: skip

register_tasks()
