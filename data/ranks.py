"""Processes that train together take turns at the data, however long a download or decoding lasts."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from .errors import DataError, one_line

_POLL_S = 0.05
_BEAT_S = 5
_SILENCE_S = 600  # without a sign of life of the one that works
_visits = itertools.count()  # the same in every process: they build the same data sets in the same order


@contextmanager
def one_process_a_machine_first() -> Iterator[None]:
    """Let one process of each machine fetch and decode before its neighbours, who then find the cache.

    Nobody leaves before all are ready. Both waits ask the process group's store now and then: a collective,
    a barrier say, would end every process after the group's timeout.

    Raises
    ------
    DataError
        In every process, when one of them failed.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        yield
        return
    from torch.distributed.distributed_c10d import _get_default_store

    world_size = torch.distributed.get_world_size()
    store = torch.distributed.PrefixStore(f"data {next(_visits)}", _get_default_store())
    machine = f"{socket.gethostname()} {os.environ.get('GROUP_RANK', '')}"
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if not first:
        _wait(store, lambda: store.check([machine]))
    with _signs_of_life(store):
        try:
            yield
        except BaseException as error:
            store.set("failed", one_line(error))
            raise
    if first:
        store.set(machine, "ready")
    store.add("ready", 1)
    _wait(store, lambda: store.add("ready", 0) >= world_size)


@contextmanager
def _signs_of_life(store) -> Iterator[None]:
    done = threading.Event()

    def beat():
        with suppress(RuntimeError):  # without the store nobody listens
            while not done.is_set():
                store.add("beat", 1)
                done.wait(_BEAT_S)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _wait(store, ready: Callable[[], bool]) -> None:
    beat, heard = -1, time.monotonic()
    try:
        while not ready():
            if store.check(["failed"]):
                raise DataError(f"another process failed: {store.get('failed').decode(errors='replace')}")
            now, before = time.monotonic(), beat
            beat = store.add("beat", 0)
            heard = now if beat != before else heard
            if now - heard > _SILENCE_S:
                raise DataError(f"the process that prepares the data has been silent for {_SILENCE_S} s")
            time.sleep(_POLL_S)
    except RuntimeError as error:  # the store went with the process that held it
        raise DataError(f"another process ended: {one_line(error)}") from error
