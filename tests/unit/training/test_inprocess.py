"""What the learner of a worker without a process is given."""

import contextlib

import numpy as np
from tests.simulation import fakes

from wardround.clinical.table import LoadReport, StudyTable
from wardround.ids import SiteId
from wardround.training import inprocess


class Spy:
    def __init__(self, assignment):
        self.assignment = assignment


def test_the_patients_reach_the_learner_read_only(monkeypatch):
    monkeypatch.setattr(inprocess, "Learner", Spy)
    plan = fakes.make_plan(sites=["a", "b"], quorum=2, rounds=1, scaling="none", server={}, limits={}, expires=2000.0)
    features, patients = np.zeros((3, 1), np.float32), np.array([0, 1, 0], np.int32)
    table = StudyTable(features, features[:, 0], np.zeros(3, bool), LoadReport(3, 3, 0), patients)
    worker = inprocess.InProcessWorker(plan, SiteId("a"), table, None)
    with contextlib.closing(worker):
        given = worker._learner.assignment.patients
        assert given.tolist() == [0, 1, 0]
        assert not given.flags.writeable
        assert table.patients.flags.writeable
