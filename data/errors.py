"""The one exception that `data` raises for what a user can mend."""


class DataError(ValueError):
    """A data set cannot be had as asked; the message is one line and says what would help."""


def one_line(error: BaseException) -> str:
    """The message of any exception, on one line and never empty."""
    return " ".join(str(error).split()) or type(error).__name__
