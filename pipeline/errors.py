"""Errors that a user can cause, and therefore can mend."""


class TbrmError(Exception):
    """What was wrong, where (file, row, field), and the next step. Printed without a traceback by the CLI."""


class ConfigError(TbrmError):
    """An experiment file that cannot be used."""


class StoreError(TbrmError):
    """A table that is missing, incomplete, corrupted or held by another writer."""
