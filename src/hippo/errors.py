"""The root of the errors that people cause and can mend."""


class UserError(Exception):
    """What is wrong, and what to do about it, in one sentence: programs end with it, and without a traceback.

    A subclass names the kind, and may be a ValueError or a RuntimeError as well.
    """
