"""Base of all configuration sections."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen section. Unknown keys are errors; the string under a field documents it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )
