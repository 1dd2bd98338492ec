"""SIGTERM and SIGINT as a request that the training loop reads between two steps."""

import os
import signal
import sys
from contextlib import contextmanager

PATIENCE = 30  # seconds that a loop may take to ask whether a signal has come


class Stop:
    """Outside of :meth:`deferred` a signal ends the process at once; inside, it is only noted.

    A loop that does not ask for it within ``PATIENCE`` hangs, for a file on a dead disk, say: then the signal ends it.

    The exit code is the shell's, 128 + the signal's number: 143 for SIGTERM, 130 for SIGINT. A second
    signal does not wait for the step, unless torchrun is in between: it passes signals on that the process
    has had already, and kills after half a minute anyway.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._deferred = False
        self._patient = "TORCHELASTIC_RUN_ID" in os.environ
        self._owner = os.getpid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

        if hasattr(signal, "SIGALRM"):
            signal.signal(signal.SIGALRM, lambda *_: self.leave())

    @property
    def requested(self) -> bool:
        if self.exit_code and hasattr(signal, "alarm"):
            signal.alarm(0)
        return self.exit_code != 0

    def _on_signal(self, number: int, frame) -> None:
        if os.getpid() != self._owner:  # a data worker that was forked from us: the parent decides
            return
        again = self.requested
        self.exit_code = 128 + number
        if (again and not self._patient) or not self._deferred:
            sys.exit(self.exit_code)
        if hasattr(signal, "alarm"):
            signal.alarm(PATIENCE)

    def leave(self) -> None:
        """End the program with the signal's exit code; another process may have had the signal."""
        sys.exit(self.exit_code or 128 + signal.SIGTERM)

    @contextmanager
    def deferred(self):
        """While a step must not be torn: from here on the loop asks ``requested`` itself."""
        self._deferred = True
        try:
            yield self
        finally:
            self._deferred = False
