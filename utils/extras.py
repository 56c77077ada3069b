"""Libraries that are optional: loaded where they are used, and named with what installs them where they are missing."""

from importlib import import_module
from typing import Any

from utils.errors import UserError

VIDEO = "pip install -r requirements-video.txt"


def optional(module: str, purpose: str, install: str = VIDEO) -> Any:
    """Import a library. Raises: UserError that says what needs it and how to install it."""
    try:
        return import_module(module)
    except ImportError as error:  # also a library of the system that is missing, such as libGL for cv2
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        what = f"{module} is missing" if missing else f"{module} cannot be loaded ({error})"
        raise UserError(f"{purpose}: {what}; {install}") from error
