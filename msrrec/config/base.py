"""The base class of all sections of settings."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """Base of every section of settings: immutable, refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    runtime: ClassVar[frozenset[str]] = frozenset()
    """Names of settings that change speed, placement or retries, but never the result."""
    folders: ClassVar[frozenset[str]] = frozenset()
    """Names of settings that may be a path; what the folder holds then counts, not its name."""

    def decisive(self, fingerprint: Callable[[str], str]) -> dict[str, Any]:
        """The settings that decide a result, as JSON values.

        Args:
            fingerprint: Turns a setting that may name a folder into a fingerprint of its files.
        """
        found: dict[str, Any] = {}
        values = self.model_dump(mode="json")
        for name in type(self).model_fields.keys() - self.runtime:
            value = getattr(self, name)
            if isinstance(value, Config):
                found[name] = value.decisive(fingerprint)
            elif isinstance(value, tuple) and value and isinstance(value[0], Config):
                found[name] = [part.decisive(fingerprint) for part in value]
            elif name in self.folders and value is not None:
                found[name] = fingerprint(value)
            else:
                found[name] = values[name]
        return dict(sorted(found.items()))

    @model_validator(mode="before")
    @classmethod
    def _keep_nested_defaults(cls, values: Any) -> Any:
        """Fill settings of a nested section that are not given with this section's defaults."""
        if not isinstance(values, Mapping):
            return values
        merged = dict(values)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Config) and isinstance(values.get(name), Mapping):
                merged[name] = {**dict(field.default), **values[name]}
        return merged
