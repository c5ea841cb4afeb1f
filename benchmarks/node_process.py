"""A real node whose worker process echoes instead of learning: ``python -m benchmarks.node_process FOLDER``."""

import sys
from pathlib import Path

from wardround.cli.output import configure_logs
from wardround.node.setup import load_config, open_node
from wardround.training.worker import PytorchWorker

configure_logs(json_=False)
_folder = Path(sys.argv[1])
_name = load_config(_folder).name
open_node(
    _folder,
    start_worker=lambda plan, table, package: PytorchWorker(
        plan, _name, table, package, learner="wardround.training.echo:Learner"
    ),
).agent().run()
