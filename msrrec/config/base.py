"""What all sections share."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """Base of every config: immutable, no unknown keys, field docs under the field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _keep_nested_defaults(cls, values: Any) -> Any:
        """Settings of a nested section that are not given keep the defaults of the outer one."""
        if not isinstance(values, Mapping):
            return values
        merged = dict(values)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Config) and isinstance(values.get(name), Mapping):
                merged[name] = {**dict(field.default), **values[name]}
        return merged
