"""Typed JSON files of results, which are read only in the current schema version."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from msrrec import storage
from msrrec.errors import DataError


class Result(BaseModel):
    """Base of every part of a result: immutable, refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Document(Result):
    """Base of a result that is a file of its own.

    A subclass defines its ``FILE`` name, its ``KIND``, its ``VERSION`` (raised when a field
    changes), and for messages ``WHAT`` it is and the command it is ``MADE_BY``.
    """

    FILE: ClassVar[str]
    KIND: ClassVar[str]
    WHAT: ClassVar[str]
    VERSION: ClassVar[int]
    MADE_BY: ClassVar[str]

    @classmethod
    def load(cls, folder: str) -> Self:
        """The result in a folder.

        Raises:
            DataError: If the file is missing or incomplete, or has another kind or schema version.
        """
        path = storage.join(folder, cls.FILE)
        found = storage.read_json(path)
        cls._check_kind(path, found)
        values = {k: v for k, v in found.items() if k not in ("kind", "schema_version")}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(
                f"{path}: {place}: {first['msg']}; expected a file of `{cls.MADE_BY}`; run it "
                "again with --overwrite"
            ) from error

    @classmethod
    def _check_kind(cls, path: str, found: Any) -> None:
        if not isinstance(found, dict) or found.get("kind", cls.KIND) != cls.KIND:
            raise DataError(
                f"{path}: not {cls.WHAT}; expected a file made by `{cls.MADE_BY}`; give another "
                "folder"
            )
        version = found.get("schema_version", "none")
        if version != cls.VERSION:
            raise DataError(
                f"{path}: has schema version {version}; expected {cls.VERSION}; run "
                f"`{cls.MADE_BY}` again with --overwrite"
            )

    def save(self, folder: str) -> None:
        """Write the file, with kind and schema version first."""
        head = {"kind": self.KIND, "schema_version": self.VERSION}
        storage.write_json(storage.join(folder, self.FILE), head | self.model_dump(mode="json"))
