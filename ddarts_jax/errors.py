"""The one exception for what a user can mend, and what other exceptions say in a line."""


def first_line(error: Exception) -> str:
    """Returns the first line of an exception, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class UserError(ValueError):
    """A mistake in input, configuration or environment that the user can mend.

    The message is one sentence or two: what was wrong, where, and what to do. `main` prints it without
    a traceback and exits with status 2; callers of the library catch it as a `ValueError`.
    """
