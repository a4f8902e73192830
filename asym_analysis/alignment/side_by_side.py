"""Modules side by side, each on its share of torch's threads: small products lose more by sharing than they win."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

__all__ = ["one_torch_thread", "side_by_side"]

LARGE_BLOCK = 24 * 2**20  # bytes; twice as many may stay with the process
MOST_SIDE_BY_SIDE = (
    4  # beyond it they wait for each other's Python: sixteen take half as long again as two, on two cores
)

Item = TypeVar("Item")
Found = TypeVar("Found")


@contextlib.contextmanager
def one_torch_thread() -> Iterator[int]:
    """Let torch use one thread for each operation, and give the number it had.

    The number is a setting of the whole process: it holds for other threads, too, until the end of the block.

    Returns
    -------
    iterator
        A context manager; it gives the number of threads that torch used before.

    Examples
    --------
    >>> with one_torch_thread():
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def side_by_side(work: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[tuple[Item, Found]]:
    """Apply a function to items in several threads, among which those that torch would use are divided.

    Parameters
    ----------
    work
        The function; it spends its time in torch and numpy, which let other threads run meanwhile.
    items
        Its arguments. Only a few are taken ahead of the results.

    Returns
    -------
    iterator
        Each item with its result, as they are done; in order where torch has one thread.

    Examples
    --------
    >>> sorted(side_by_side(abs, [-1, 2]))
    [(-1, 1), (2, 2)]
    """
    # Until a large block was freed, glibc gives freed memory back to the system, and fetches it again page by page.
    torch.empty(LARGE_BLOCK, dtype=torch.uint8)
    with one_torch_thread() as threads:
        if threads == 1:
            for item in items:
                yield item, work(item)
            return
        waiting: dict[Future[Found], Item] = {}
        together = min(threads, MOST_SIDE_BY_SIDE)

        def prepared(item: Item) -> Found:
            torch.set_num_threads(threads // together)  # OpenMP keeps the number by thread
            return work(item)

        pool = ThreadPoolExecutor(together)
        try:
            for item in items:
                waiting[pool.submit(prepared, item)] = item
                if len(waiting) > together:
                    yield from _done(waiting)
            while waiting:
                yield from _done(waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _done(waiting: dict[Future[Found], Item]) -> Iterator[tuple[Item, Found]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()
