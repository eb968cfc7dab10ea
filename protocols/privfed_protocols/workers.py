"""Who does the work: this thread, some more threads, or any executor that the caller has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeAlias, TypeVar

from .errors import LocalProtocolError

Workers: TypeAlias = Executor | int | None
Item = TypeVar("Item")


@contextmanager
def pool(workers: Workers) -> Iterator[Executor | None]:
    """An executor for the time of a block, None to work in this thread.

    Args:
        workers: None or 1 for this thread alone; a larger number for that many threads, this one among them, which end
            with the block; an executor to be used as it is and left open. It must have room beside the calling thread:
            a task of a pool that waits for the same pool may wait forever.

    Raises:
        LocalProtocolError: less than one worker.
    """
    if isinstance(workers, Executor):
        yield workers
    elif workers is None or workers == 1:
        yield None
    elif workers < 1:
        raise LocalProtocolError(f"{workers} workers, expected at least 1")
    else:
        with ThreadPoolExecutor(workers - 1, thread_name_prefix="privfed") as executor:
            yield executor


def hands(workers: Workers) -> int:
    """Into how many parts work is cut: the number given, or as many as there are processors for an executor."""
    if isinstance(workers, Executor):
        return max(2, os.cpu_count() or 1)
    return workers or 1


def shares_memory(executor: Executor) -> bool:
    """Whether tasks see this process's memory; else what they take and give is sent."""
    return isinstance(executor, ThreadPoolExecutor)


def deal(items: Sequence[Item], parts: int) -> list[Sequence[Item]]:
    """Cut a sequence into at most `parts` runs of nearly equal length, none empty."""
    parts = min(parts, len(items))
    cuts = [len(items) * part // parts for part in range(parts + 1)] if parts else []
    return [items[start:stop] for start, stop in pairwise(cuts)]
