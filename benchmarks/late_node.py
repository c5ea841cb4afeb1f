"""A real node that learns, and takes its time: ``python -m benchmarks.late_node FOLDER SECONDS [SLOW-NAME]``."""

import sys
import time
from pathlib import Path

from wardround.cli.output import configure_logs
from wardround.node.setup import load_config, open_node
from wardround.training.worker import PytorchWorker

_folder, _seconds = Path(sys.argv[1]), float(sys.argv[2])
_name = load_config(_folder).name
_factor = 10.0 if _name in sys.argv[3:] else 1.0


class _Delayed:
    """A worker whose training takes at least so long."""

    def __init__(self, inner):
        self._inner = inner

    @property
    def memory(self):
        """The inner worker's."""
        return self._inner.memory

    def perform(self, number, kind, base, standardization, control=""):
        """Train, and wait."""
        done = self._inner.perform(number, kind, base, standardization, control)
        if kind == "train":
            time.sleep(_seconds * _factor)
        return done

    def close(self):
        """End the worker."""
        self._inner.close()


configure_logs(json_=False)
open_node(
    _folder, start_worker=lambda plan, table, package: _Delayed(PytorchWorker(plan, _name, table, package))
).agent().run()
