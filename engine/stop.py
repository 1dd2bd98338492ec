"""SIGTERM and SIGINT as a request that the training loop reads between two steps."""

import os
import signal
import sys
from contextlib import contextmanager


class Stop:
    """Outside of :meth:`deferred` a signal ends the process at once; inside, it is only noted.

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

    @property
    def requested(self) -> bool:
        return self.exit_code != 0

    def _on_signal(self, number: int, frame) -> None:
        if os.getpid() != self._owner:  # a data worker that was forked from us: the parent decides
            return
        again = self.requested
        self.exit_code = 128 + number
        if (again and not self._patient) or not self._deferred:
            sys.exit(self.exit_code)

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
