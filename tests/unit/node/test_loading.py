"""What the node takes from the process that reads the records; here a test answers in its place."""

import os
from pathlib import Path

import numpy as np
import pytest

from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport
from wardround.errors import ClinicalError
from wardround.node import loading
from wardround.node.loading import Answer, ProcessSource

CONTRACT = DataContract(columns=(Column(name="x"),), label=Label(name="y"), patient="who")
FEATURES, LABELS = np.arange(4, dtype=np.float32), np.array([0, 1, 0, 1], np.float32)
HELD_OUT = np.array([False, True, False, True])


@pytest.fixture
def load(monkeypatch):
    def load(patients, said=4):
        def answer(_request, file):
            os.pwrite(file, b"".join(array.tobytes() for array in (FEATURES, LABELS, patients, HELD_OUT)), 0)
            return Answer(records=said, report=LoadReport(4, 4, 0, patients=2))

        monkeypatch.setattr(loading, "_ask", answer)
        return ProcessSource(Path("mapping.toml")).load(CONTRACT)

    return load


def test_the_arrays_come_as_they_were_sent(load):
    table = load(np.array([0, 1, 0, 1], np.int32))
    assert table.patients.tolist() == [0, 1, 0, 1]
    assert table.patients.dtype == np.int32
    assert table.held_out.tolist() == HELD_OUT.tolist()
    assert table.features[:, 0].tolist() == FEATURES.tolist()
    assert table.labels.tolist() == LABELS.tolist()
    assert table.report.patients == 2


@pytest.mark.parametrize("patients", [[0, 2, 0, 2], [1, 1, 2, 2], [0, -1, 0, 1], [0, 1, 2, 2**31 - 1]])
def test_patients_that_are_not_numbered_without_a_gap_are_refused(load, patients):
    with pytest.raises(ClinicalError, match="without a gap"):
        load(np.array(patients, np.int32))


@pytest.mark.parametrize("patients", [np.zeros(0, np.int32), np.zeros(3, np.int32), np.zeros(4, np.int64)])
def test_another_size_than_said_is_refused(load, patients):
    with pytest.raises(ClinicalError, match="another size"):
        load(patients)
    with pytest.raises(ClinicalError, match="another size"):
        load(np.zeros(4, np.int32), said=5)
