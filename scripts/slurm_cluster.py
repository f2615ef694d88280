"""Start or stop a SLURM cluster of one node, this machine, to try sweeps on: for root, on Debian or Ubuntu.

apt-get install slurm-wlm munge
python scripts/slurm_cluster.py start /tmp/slurm        # prints the line that makes sbatch and squeue find it
python scripts/slurm_cluster.py stop /tmp/slurm
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "scontrol")
CONFIG = """\
ClusterName=one
SlurmctldHost={host}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
MinJobAge=300
KillWait=5
ReturnToService=2
MpiDefault=none
NodeName={host} CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def missing() -> str | None:
    """Return what keeps such a cluster from starting here, or None."""
    if os.geteuid() != 0:
        return "only root can start a SLURM cluster"
    os.environ["PATH"] += ":/usr/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{', '.join(absent)} not found: apt-get install slurm-wlm munge" if absent else None


def start(folder: Path) -> dict[str, str]:
    """Start munged, slurmctld and slurmd with their files in a folder; return the environment that finds them.

    Raises:
        RuntimeError: If the node is not idle within half a minute; the message ends with what slurmctld said.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    folder.chmod(0o755)
    munge = [f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key", f"--pid-file={folder}/munge.pid"]
    munge += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed", "--force"]
    subprocess.run(["munged", *munge], check=True, capture_output=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 512
    host, cores = socket.gethostname().partition(".")[0], os.cpu_count()
    config = CONFIG.format(host=host, folder=folder, ports=_free_ports(2), cores=cores, memory=memory)
    (folder / "slurm.conf").write_text(config)
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    for daemon in ("slurmctld", "slurmd"):
        subprocess.run([daemon, "-f", str(folder / "slurm.conf")], check=True, capture_output=True)
    for _ in range(60):
        time.sleep(0.5)
        asked = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=os.environ | environment, capture_output=True, text=True
        )
        if asked.stdout.strip() == "idle":
            return environment
    stop(folder)
    raise RuntimeError(f"SLURM did not start:\n{(folder / 'slurmctld.log').read_text()[-2000:]}")


def stop(folder: Path) -> None:
    """Stop the cluster of that folder, with all of its jobs."""
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run(["scancel", "--full", "--user=root"], env=environment, capture_output=True)
    for name in ("slurmd", "slurmctld", "munge"):
        with suppress(OSError, ValueError):
            pid = int((folder / f"{name}.pid").read_text())
            os.kill(pid, signal.SIGTERM)
            for _ in range(50):
                os.kill(pid, 0)
                time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("folder", type=Path, help="for its configuration, state and logs")
    args = parser.parse_args()
    folder = args.folder.expanduser().absolute()
    if reason := missing():
        sys.exit(f"error: {reason}")
    if args.action == "stop":
        stop(folder)
    else:
        for name, value in start(folder).items():
            print(f"export {name}={value}")


if __name__ == "__main__":
    main()
