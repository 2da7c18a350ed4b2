"""The two ways to end badly, both in one line for a person."""


class UserError(Exception):
    """A mistake in what was asked for: exit code 2. Names the field, what it accepts and what to do."""


class Failure(Exception):
    """Something that was rightly asked for went wrong: exit code 1."""
