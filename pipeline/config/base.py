"""What every part of an experiment's configuration shares."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Immutable, and a key nobody knows is an error rather than a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
