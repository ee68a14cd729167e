"""Being asked to stop by a scheduler: what the signals SIGUSR1, SIGUSR2 and SIGTERM do to a run's process.

They end it with exit status 75 (`os.EX_TEMPFAIL`): all is saved, and the same command continues. Most of the time that
is at once, as finished steps are kept; a training is asked to end after the update at hand, and saves itself first.
No torch is imported here.
"""

import contextlib
import os
import signal
import sys

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
STOPPED = os.EX_TEMPFAIL


class Stops:
    """The signals of this process, from `watch` on."""

    def __init__(self) -> None:
        self.received = False
        self.waits = False

    @property
    def asked(self) -> bool:
        """Whether one has come, also while it had to wait."""
        if self.waits:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # here what is pending is received
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        return self.received

    def watch(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._receive)

    @staticmethod
    def ignore() -> None:
        """Let nothing disturb the end of this process, where Python would have them kill it."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _receive(self, number: int, _: object) -> None:
        self.received = True
        self.ignore()  # the first one is being obeyed
        say = "stopping after this update" if self.waits else "stopping"
        with contextlib.suppress(OSError):  # not `print`, which may just be at work
            os.write(2, f"{signal.Signals(number).name}: {say}\n".encode())
        if not self.waits:
            sys.exit(STOPPED)

    def wait(self) -> None:
        """From now on a signal waits to be asked for. Processes that are started from now on do not get it.

        An update may need them: what loads its batch, or compiles its code. They end by themselves, or are killed.
        """
        self.waits = True
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def resume(self) -> None:
        """From now on a signal ends the process at once, as does one that has come meanwhile."""
        self.waits = False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if self.received:
            sys.exit(STOPPED)
