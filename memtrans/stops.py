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
INSIST = 0.5  # seconds of computing until a process that goes on all the same is asked again


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
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _receive(self, number: int, _: object) -> None:
        self.received = True
        self.ignore()  # the first one is being obeyed
        say = "stopping after this update" if self.waits else "stopping"
        with contextlib.suppress(OSError):  # not `print`, which may just be at work
            os.write(2, f"{signal.Signals(number).name}: {say}\n".encode())
        if not self.waits:
            signal.signal(signal.SIGVTALRM, self._insist)
            signal.setitimer(signal.ITIMER_VIRTUAL, INSIST, INSIST)
            sys.exit(STOPPED)

    @staticmethod
    def _insist(*_: object) -> None:
        """Stop once more, unless that is under way.

        What is raised in a finaliser, where a signal may find the interpreter as it collects garbage, is ignored.
        """
        error = sys.exception()
        while error is not None and not isinstance(error, SystemExit):
            error = error.__context__
        if error is None:
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
