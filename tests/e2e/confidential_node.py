"""A node as a process of its own, in a confidential machine of a test authority; everything else is as installed.

confidential_node.py FOLDER KERNEL MEASUREMENT      prints what its people are told; ends when its input does
"""

import os
import sys
import threading
from pathlib import Path

from broker_process import authority
from tests.unit.enclave.confidential_machine import Clock, machine

from wardround.node import attesting, setup


def main(folder, kernel, measurement):
    authority(kernel)
    attesting.KernelReports = lambda: machine(kernel / f"{folder.name}-{os.getpid()}", measurement)
    attesting.SystemClock = Clock
    node = setup.open_node(folder, progress=lambda what, _: print(what, flush=True))
    agent = node.agent()
    threading.Thread(target=agent.run, daemon=True).start()
    print("up", flush=True)
    sys.stdin.read()
    agent.stop()
    node.recording.auditing.close()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), bytes.fromhex(sys.argv[3]))
