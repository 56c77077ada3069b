"""The exception of a user's mistake: command lines print it as one line, without a traceback (utils/log.py)."""


class UserError(ValueError):
    """Something that the person at the keyboard can put right; the message is one line that says what and where."""
