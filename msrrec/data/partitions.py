"""Examples in partitions, which are read one after another so that memory stays bounded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from msrrec.schema import Example

PARTITION_SIZE = 5_000
"""Examples in a partition: with outputs and figures some 150 MiB in memory."""


@dataclass(frozen=True)
class Partitions:
    """Examples in a fixed order, in parts that can be read as often as needed.

    Attributes:
        num_examples: Number of all examples.
        read: Returns an iterator over the parts from the beginning.
    """

    num_examples: int
    read: Callable[[], Iterator[Sequence[Example]]]

    @classmethod
    def split(cls, examples: Sequence[Example], size: int = PARTITION_SIZE) -> "Partitions":
        """Examples that are in memory, at most ``size`` of them in a part."""

        def read() -> Iterator[Sequence[Example]]:
            for begin in range(0, len(examples), size):
                yield examples[begin : begin + size]

        return cls(len(examples), read)

    def limit(self, num_examples: int) -> "Partitions":
        """The first of these examples, at most a number of them."""
        num_wanted = min(num_examples, self.num_examples)

        def read() -> Iterator[Sequence[Example]]:
            num_left = num_wanted
            for part in self.read():
                if not num_left:
                    return
                some = part[:num_left]
                num_left -= len(some)
                yield some

        return Partitions(num_wanted, read)
