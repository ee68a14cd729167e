"""A real Slurm on 127.0.0.1 for the tests: munged, slurmctld and slurmd, one of each, in a folder of their own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
GresTypes=gpu
ReturnToService=2
JobRequeue=0
KillWait=60
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


def missing() -> str | None:
    """Why no Slurm can be started here, or None."""
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if lacking:
        return f"no {', '.join(lacking)} here (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "slurmctld and slurmd are started as root, which this is not"


@dataclass
class Slurm:
    """A cluster of one node. `start` and `stop` are for its three daemons, and for one of them by name."""

    folder: Path
    cpus: int = 2
    running: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def node(self) -> str:
        return socket.gethostname().partition(".")[0]

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        controller, node = _free_ports(2)
        config = CONFIG.format(host=self.node, controller=controller, node=node, folder=self.folder, cpus=self.cpus)
        (self.folder / "slurm.conf").write_text(config)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        self.start_one("munged")
        self.start_one("slurmctld")
        self.start_one("slurmd")
        wait_until(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"), 30, "an idle node")

    def start_one(self, name: str) -> None:
        munge = ["--foreground", "--force", f"--key-file={self.folder}/munge.key"]
        munge += [
            f"--{what}={self.folder}/munge.{what.partition('-')[0]}" for what in ("socket", "pid-file", "log-file")
        ]
        munge.append(f"--seed-file={self.folder}/munge.seed")
        arguments = {"munged": munge, "slurmctld": ["-D"], "slurmd": ["-D"]}[name]
        with (self.folder / f"{name}.out").open("ab") as out:
            self.running[name] = subprocess.Popen(
                [name, *arguments], env=os.environ | self.environment, stdout=out, stderr=out, start_new_session=True
            )
        if name == "munged":
            wait_until((self.folder / "munge.socket").exists, 10, "munged")
        if name == "slurmctld":
            wait_until(lambda: self.answers(), 30, "slurmctld")

    def stop_one(self, name: str) -> None:
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)

    def stop(self) -> None:
        """Cancel what is left, and end the daemons, whatever state they are in."""
        if "slurmctld" in self.running:
            subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=os.environ | self.environment, timeout=30)
            subprocess.run(["scancel", "--user=root"], env=os.environ | self.environment, timeout=30)
            wait_until(lambda: not self.ask("squeue", "--noheader"), 60, "an empty queue")
        for name in ("slurmd", "slurmctld", "munged"):
            if name in self.running:
                self.stop_one(name)

    def unreachable(self) -> dict[str, str]:
        """The environment of a machine on which the controller does not answer."""
        config, port = (self.folder / "slurm.conf").read_text(), _free_ports(1)[0]
        path = self.folder / "unreachable.conf"
        path.write_text(re.sub("SlurmctldPort=.*", f"SlurmctldPort={port}", config))
        return {"SLURM_CONF": str(path)}

    def answers(self) -> bool:
        done = subprocess.run(["scontrol", "ping"], env=os.environ | self.environment, capture_output=True, text=True)
        return "is UP" in done.stdout

    def ask(self, *command: str) -> str:
        """Standard output of a Slurm command, which must succeed."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return as soon as `condition` holds; fail, naming `what`, if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
