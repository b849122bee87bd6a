"""The one exception for what a user can mend."""


class UserError(ValueError):
    """A mistake in input, configuration or environment that the user can mend.

    The message is one sentence or two: what was wrong, where, and what to do. `main` prints it without
    a traceback and exits with status 2; callers of the library catch it as a `ValueError`.
    """
