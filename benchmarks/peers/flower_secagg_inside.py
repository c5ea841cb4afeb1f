"""Runs inside Flower's environment: one cohort of its SecAgg+ through its own functions, as one JSON line.

Participants go through `_setup`, `_share_keys`, `_collect_masked_vectors` and `_unmask` of Flower's
client mod; the server does what `SecAggPlusWorkflow` does when masked vectors arrive and in its unmask
stage, with the same helper functions in the same order. Every participant has shares of every other.
"""

import importlib
import json
import random
import sys
import time
from importlib.metadata import version

import numpy as np
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto import shamir
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

# The package has a function of the module's name.
mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
COUNT, PARAMETERS, DROPOUT = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
THRESHOLD = 2 * COUNT // 3 + 1
CLIP, RANGE, MODULUS = 8.0, 4194304, 4294967296


def main():
    """Measure, and print."""
    spent = {"participants": 0.0, "server": 0.0}

    def timed(side, call, *arguments):
        start = time.process_time()
        result = call(*arguments)
        spent[side] += time.process_time() - start
        return result

    nodes = list(range(1, COUNT + 1))
    states = {nid: mod.SecAggPlusState(nid=nid) for nid in nodes}
    configs = {
        Key.SAMPLE_NUMBER: COUNT,
        Key.SHARE_NUMBER: COUNT,
        Key.THRESHOLD: THRESHOLD,
        Key.CLIPPING_RANGE: CLIP,
        Key.TARGET_RANGE: RANGE,
        Key.MOD_RANGE: MODULUS,
        Key.MAX_WEIGHT: 1000.0,
    }
    keys = {nid: timed("participants", mod._setup, states[nid], configs) for nid in nodes}
    public = {str(nid): (keys[nid][Key.PUBLIC_KEY_1], keys[nid][Key.PUBLIC_KEY_2]) for nid in nodes}
    dealt = {nid: timed("participants", mod._share_keys, states[nid], public) for nid in nodes}
    arriving = {nid: ([], []) for nid in nodes}
    for source, answer in dealt.items():
        for target, sealed in zip(answer[Key.DESTINATION_LIST], answer[Key.CIPHERTEXT_LIST], strict=True):
            arriving[target][0].append(source)
            arriving[target][1].append(sealed)
    update = np.random.default_rng(1).standard_normal(PARAMETERS).astype(np.float32)
    parameters = ndarrays_to_parameters([update])
    dead = set(random.Random(1).sample(nodes, int(COUNT * DROPOUT)))
    alive = [nid for nid in nodes if nid not in dead]
    total = None
    for nid in alive:
        delivered = {Key.SOURCE_LIST: arriving[nid][0], Key.CIPHERTEXT_LIST: arriving[nid][1]}
        answer = timed("participants", mod._collect_masked_vectors, states[nid], delivered, 10, parameters)
        total = timed("server", added, total, answer[Key.MASKED_PARAMETERS])
    asked = {Key.ACTIVE_NODE_ID_LIST: alive, Key.DEAD_NODE_ID_LIST: sorted(dead)}
    revealed = [timed("participants", mod._unmask, states[nid], asked) for nid in alive]
    mean = timed("server", opened, total, revealed, set(alive), {nid: keys[nid][Key.PUBLIC_KEY_1] for nid in nodes})
    assert np.abs(mean - np.clip(update, -CLIP, CLIP)).max() < 1e-3, "the sum is not the sum"
    total = spent["participants"] + spent["server"]
    result = {"participant": spent["participants"] / COUNT, "server": spent["server"], "total": total}
    print(json.dumps(result | {"version": version("flwr")}))


def added(total, masked):
    """What the workflow does when a masked vector arrives."""
    vectors = [bytes_to_ndarray(data) for data in masked]
    return vectors if total is None else parameters_mod(parameters_addition(total, vectors), MODULUS)


def opened(total, revealed, alive, public):
    """The workflow's unmask stage."""
    shares = {nid: [] for nid in public}
    for answer in revealed:
        for owner, share in zip(answer[Key.NODE_ID_LIST], answer[Key.SHARE_LIST], strict=True):
            shares[owner].append(share)
    for nid, given in shares.items():
        secret = shamir.combine_shares(given)
        if nid in alive:
            mask = pseudo_rand_gen(secret, MODULUS, get_parameters_shape(total))
            total = parameters_subtraction(total, mask)
            continue
        for other in public:
            if other == nid:
                continue
            pair = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(public[other]))
            mask = pseudo_rand_gen(pair, MODULUS, get_parameters_shape(total))
            total = (parameters_addition if nid > other else parameters_subtraction)(total, mask)
    weight, rest = factor_extract(parameters_mod(total, MODULUS))
    vectors = dequantize(rest, CLIP, RANGE)
    offset = -(len(alive) - 1) * CLIP
    return (vectors[0] + offset) * (RANGE / weight)


main()
