"""Independent runs side by side: one thread for each run, in place of many threads for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item], description: str = "") -> list[Result]:
    """Return the results of a function for each item, in their order, computed side by side.

    As many run at once as PyTorch was given threads (`torch.get_num_threads()`), each on one. Networks at batch size
    one keep a single thread busy and let others wait, so this is faster than to give each run all of them; and on a
    machine that is shared it is much faster.

    Parameters
    ----------
    function : callable
        Of one item. It must not change what the runs share, such as a model.
    items : iterable
    description : str, default ""
        Of the progress bar, which appears where someone watches.

    Returns
    -------
    list

    Examples
    --------
    >>> in_parallel(lambda n: n**2, [3, 1, 2])
    [9, 1, 4]
    """
    items = list(items)
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(items)))
    torch.set_num_threads(max(1, threads // workers))
    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(tqdm(pool.map(function, items), desc=description, total=len(items), disable=None))
    finally:
        torch.set_num_threads(threads)
