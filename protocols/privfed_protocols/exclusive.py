"""Objects that do one thing at a time, in one process: two calls at once could use one mask twice."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from .errors import LocalProtocolError
from .uncopied import Uncopied

_Owner = TypeVar("_Owner", bound="Exclusive")
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Exclusive(Uncopied):
    """An object of one process whose `exclusive` methods wait for each other.

    Guarantees:
        Of the exclusive calls of all threads, one runs at a time, from its first check to its last change.
        A call from inside another, say from a signer that is given as a function, is refused; so is any in a fork,
        where the object would be there twice, and the lock perhaps held by a thread that was not forked.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._inside = 0  # the thread that holds the lock, 0 for none

    def _require_process(self) -> None:
        """Refuse to go on in a forked process."""
        if os.getpid() != self._process:
            name = type(self).__name__
            raise LocalProtocolError(
                f"this {name} belongs to process {self._process}, this is its fork {os.getpid()}: both would use the "
                f"same secrets; {self.instead}"
            )


def exclusive(
    method: Callable[Concatenate[_Owner, _Arguments], _Result],
) -> Callable[Concatenate[_Owner, _Arguments], _Result]:
    """Make a method one that runs alone; another thread's call waits until it is over.

    Raises:
        LocalProtocolError: called in a fork, or from inside such a method of the same object.
    """

    @functools.wraps(method)
    def alone(self: _Owner, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        self._require_process()  # before the lock, which a fork may have copied while it was held
        if self._inside == threading.get_ident():
            name = type(self).__name__
            raise LocalProtocolError(f"{method.__name__} from inside another call of this {name}; call it afterwards")
        with self._lock:
            self._inside = threading.get_ident()
            try:
                return method(self, *args, **kwargs)
            finally:
                self._inside = 0

    return alone
