"""The one exception that `data` raises for what a user can fix."""

from common import UserError


class DataError(UserError, ValueError):
    """A data set cannot be had as asked; the message is one line and says what would help."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # file names may have line breaks in them


def one_line(error: BaseException) -> str:
    """The message of any exception, on one line and never empty."""
    return " ".join(str(error).split()) or type(error).__name__
