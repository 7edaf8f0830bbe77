"""A network of this machine on which each node of a cluster has an address of its own.

Every node lives in a network namespace that is joined to one bridge, so all listen on the same
ports as they would on machines. The link of a node can be cut. Needs root, as namespaces do.
"""

import contextlib
import os
import subprocess
from dataclasses import dataclass, field


def can_network() -> bool:
    """Whether this user may make networks here."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        _ip("link", "add", "msr-try", "type", "bridge")
        _ip("link", "del", "msr-try")
        return True
    return False


@dataclass
class Network:
    """A bridge, and a namespace for each node.

    Attributes:
        addresses: The address of each node by its name; a name keeps its address.
    """

    addresses: dict[str, str] = field(default_factory=dict)
    _mark: str = field(default_factory=lambda: f"m{os.getpid()}")

    @property
    def gateway(self) -> str:
        """The address of this machine."""
        return self._at(254)

    def _at(self, number: int) -> str:
        """An address of a range that differs by process, as one that was killed leaves its own."""
        return f"10.{64 + os.getpid() // 256 % 64}.{os.getpid() % 256}.{number}"

    def __post_init__(self) -> None:
        _ip("link", "add", self._mark, "type", "bridge")
        _ip("addr", "add", f"{self.gateway}/24", "dev", self._mark)
        _ip("link", "set", self._mark, "up")

    def enter(self, name: str) -> list[str]:
        """The beginning of a command that runs on a node, whose namespace is made anew."""
        number = self._number(name)
        self._remove(number)
        space, outer, inner = self._names(number)
        _ip("netns", "add", space)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
        _ip("link", "set", outer, "master", self._mark, "up")
        for command in (
            ("link", "set", "lo", "up"),
            # A node that comes back under its address is found at once by those who knew it.
            ("link", "set", inner, "address", f"02:00:00:00:00:{number:02x}"),
            ("addr", "add", f"{self.addresses[name]}/24", "dev", inner),
            ("link", "set", inner, "up"),
        ):
            _ip("-n", space, *command)
        return ["ip", "netns", "exec", space]

    def cut(self, name: str) -> None:
        """Let nothing to or from a node pass any more, without a word to either end."""
        _, outer, _ = self._names(self._number(name))
        _ip("link", "set", outer, "down")

    def close(self) -> None:
        """Remove all of it."""
        for name in self.addresses:
            self._remove(self._number(name))
        _ip("link", "del", self._mark)

    def _number(self, name: str) -> int:
        if name not in self.addresses:
            self.addresses[name] = self._at(len(self.addresses) + 1)
        return int(self.addresses[name].rpartition(".")[2])

    def _names(self, number: int) -> tuple[str, str, str]:
        return f"{self._mark}-{number}", f"{self._mark}v{number}", f"eth{number}"

    def _remove(self, number: int) -> None:
        space, outer, _ = self._names(number)
        for command in (("link", "del", outer), ("netns", "del", space)):
            with contextlib.suppress(subprocess.CalledProcessError):  # it was never made
                _ip(*command)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
