"""The one error that a user meets."""


class UserError(Exception):
    """One clear sentence that names the file or the setting and says what to do; shown without a stack trace."""
