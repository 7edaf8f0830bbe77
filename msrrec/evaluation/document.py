"""JSON files of results with a type, read only where they are of this schema version."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from msrrec import storage
from msrrec.errors import DataError


class Result(BaseModel):
    """Base of every part of a result: immutable, no unknown keys, field docs under the field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Document(Result):
    """Base of a result that is a file of its own.

    A class names its ``FILE`` within a folder, its ``KIND`` and its ``VERSION``, which changes with
    any field, and for messages ``WHAT`` it is and the command ``MADE_BY`` that writes it.
    """

    FILE: ClassVar[str]
    KIND: ClassVar[str]
    WHAT: ClassVar[str]
    VERSION: ClassVar[int]
    MADE_BY: ClassVar[str]

    @classmethod
    def load(cls, folder: str) -> Self:
        """The result that a folder holds.

        Raises:
            DataError: If the file is missing, of another kind or schema version, or not whole.
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
                f"{path}: {place}: {first['msg']}; expected what `{cls.MADE_BY}` writes; run it "
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
        """Write the file, kind and schema version first."""
        head = {"kind": self.KIND, "schema_version": self.VERSION}
        storage.write_json(storage.join(folder, self.FILE), head | self.model_dump(mode="json"))
