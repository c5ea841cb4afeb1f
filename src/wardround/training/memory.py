"""What a site remembers of a run from round to round, in one float32 file that node and worker share.

header      64 bytes; the first is 1 once there is something to remember
kept        the arrays that stay at the site, one after another
control     SCAFFOLD's control variate of the site or FedDyn's gradient, as long as the model
personal    the site's own model
clip        one number: the clipping norm that private training has come to
own, base   the last update, and the model that it was trained from: for the divergence
"""

import math

import numpy as np
import numpy.typing as npt

from wardround.codec import tensors
from wardround.protocol.learning import kept_columns
from wardround.protocol.plan import Plan

__all__ = ["layout", "memory_bytes", "personal_model"]

_HEADER = 16


def layout(plan: Plan) -> dict[str, slice]:
    """Places in the memory, in float32 elements; empty where nothing is remembered."""
    local, columns = plan.training.local, tensors.columns(plan.manifest)
    sizes = {
        "kept": sum(stop - start for start, stop in kept_columns(local, plan.manifest)),
        "control": columns if local.algorithm in {"scaffold", "feddyn"} else 0,
        "personal": columns if local.is_personal else 0,
        "clip": int(plan.privacy is not None and plan.privacy.clip_quantile > 0),
        "own": columns if local.divergence else 0,
        "base": columns if local.divergence else 0,
    }
    places, start = {}, _HEADER
    for name, size in sizes.items():
        if size:
            places[name] = slice(start, start + size)
            start += size
    return places


def memory_bytes(plan: Plan) -> int:
    """Size of what a site remembers; 0 where that is nothing."""
    places = layout(plan)
    return 4 * max(place.stop for place in places.values()) if places else 0


def personal_model(plan: Plan, memory: bytes) -> dict[str, npt.NDArray[np.float32]] | None:
    """The site's own model by array name, from what it remembers; None where it has none."""
    place = layout(plan).get("personal")
    vector = np.frombuffer(memory, np.float32)
    if place is None or len(vector) < place.stop or not vector[0]:
        return None
    found, start = {}, place.start
    for spec in plan.manifest:
        size = math.prod(spec.shape)
        found[spec.name] = vector[start : start + size].reshape(spec.shape).copy()
        start += size
    return found
