"""The GPU on which a pass makes its arrays, in whichever thread."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

__all__ = ["hold_current"]


def hold_current(
    xp: Any,  # noqa: ANN401 - a module
    n_threads: int,
) -> Callable[[], AbstractContextManager[None]]:
    """Return what makes the device and the stream current, in any thread, that are so in this one.

    CUDA has a current device for each thread, and CuPy a current stream: a new thread begins with
    the first device and the default stream, whatever its parent chose.

    Parameters
    ----------
    xp : module
        NumPy, for which there is nothing to hold, or CuPy.
    n_threads : int
        How many other threads make arrays.

    Returns
    -------
    callable
        Returns a context manager; may be called any number of times.

    Raises
    ------
    CUDARuntimeError
        Of CuPy, if there is no GPU to be used.
    ValueError
        If each thread has a default stream of its own and there are others: nothing would keep
        this one from using arrays before they are ready.
    """
    if xp is np:
        return nullcontext
    try:
        device, stream = xp.cuda.Device(), xp.cuda.get_current_stream()
    except xp.cuda.runtime.CUDARuntimeError as error:
        if "InitializationError" in str(error):
            error.add_note(
                "a process that was forked from one that used a GPU cannot use any: start it by "
                "'spawn' or 'forkserver'"
            )
        raise
    if n_threads > 0 and stream == xp.cuda.Stream.ptds:
        raise ValueError(
            "workers must be 0 on a GPU where each thread has a default stream of its own "
            f"(CUPY_CUDA_PER_THREAD_DEFAULT_STREAM), got {n_threads}"
        )

    @contextmanager
    def current() -> Generator[None]:
        with device, stream:
            yield

    return current
