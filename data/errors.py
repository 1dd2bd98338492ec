"""The one exception that `data` raises for what a user can fix."""

from common import UserError, one_line

__all__ = ["DataError", "one_line"]


class DataError(UserError, ValueError):
    """A data set cannot be had as asked; the message is one line and says what would help."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # file names may have line breaks in them
