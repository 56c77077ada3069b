"""The exception for a user's mistake. Command lines print it as one line, without a traceback (utils/log.py)."""


class UserError(ValueError):
    """A mistake that the user can fix. The message is one line that says what is wrong and where."""
