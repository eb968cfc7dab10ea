"""Objects that must exist once: two copies would use one mask twice, or open what one of them has forgotten."""

from __future__ import annotations

from typing import ClassVar, NoReturn


class Uncopied:
    """Refuses `copy`, `deepcopy` and `pickle`.

    Attributes:
        instead: what the reader can do instead; the end of the error.
    """

    instead: ClassVar[str] = "keep the one object"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} is not copied or pickled, since it holds secrets or what they open, and two "
            f"copies could use them twice; {self.instead}"
        )
