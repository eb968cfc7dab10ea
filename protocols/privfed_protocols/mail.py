"""Messages to many clients, each made when it is asked for, so that n of them never are in memory together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping


class Mail(Mapping[bytes, bytes]):
    """Identity -> message. Asking twice makes it twice, byte for byte the same; drop the mail to free what it is of.

    Args:
        receivers: index in the roster, by identity.
        make: gives the message for an index.
    """

    def __init__(self, receivers: Mapping[bytes, int], make: Callable[[int], bytes]) -> None:
        self._receivers = receivers
        self._make = make

    def __getitem__(self, identity: bytes) -> bytes:
        return self._make(self._receivers[identity])

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._receivers)

    def __len__(self) -> int:
        return len(self._receivers)

    def __contains__(self, identity: object) -> bool:
        return identity in self._receivers

    def __repr__(self) -> str:
        return f"<Mail to {len(self)} clients>"
