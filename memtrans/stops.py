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
        self.asked = False
        self.waits = False

    def watch(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._receive)

    @staticmethod
    def ignore() -> None:
        """Let nothing disturb the end of this process, where Python would have them kill it."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _receive(self, number: int, _: object) -> None:
        self.asked = True
        self.ignore()  # the first one is being obeyed
        say = "stopping after this update" if self.waits else "stopping"
        with contextlib.suppress(OSError):  # not `print`, which may just be at work
            os.write(2, f"{signal.Signals(number).name}: {say}\n".encode())
        if not self.waits:
            sys.exit(STOPPED)

    @staticmethod
    def spare_helpers() -> None:
        """Processes that are forked from now on do not get the signals: an update may need the batch they load.

        They have to be killed, or to end by themselves.
        """
        os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS))

    def wait(self) -> None:
        """From now on a signal waits to be asked for."""
        self.waits = True

    def resume(self) -> None:
        """From now on a signal ends the process at once, as does one that has come meanwhile."""
        self.waits = False
        if self.asked:
            sys.exit(STOPPED)
