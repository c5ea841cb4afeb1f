"""A hub that changes what it tells one member of a cohort; the member must not do what it says."""

import msgspec

from wardround.secagg.messages import Agreements, Delivery, Invitation, Survivors

replace = msgspec.structs.replace


def lie(world, site, task):
    """The task as it is, or, now and then, with a lie in it."""
    if type(task.step).__name__ != world.weather.liar or not world.stormy(0.5):
        return task
    step = LIES[type(task.step)](world, task.step, site)
    world.tell("hub", f"lies to {site}", type(task.step).__name__)
    return replace(task, step=step)


def _invitation(world, step, _site):
    terms = step.terms
    changes = [
        {"threshold": 1},
        {"minimum": 1},
        {"bases": ("0" * 64,) * len(terms.members)},
        {"standardization": "1" * 64},
        {"clip": terms.clip * 2},
        {"number": terms.number + 1},
        {"members": terms.members[1:], "nonces": terms.nonces[1:], "bases": terms.bases[1:]},
    ]
    return Invitation(replace(terms, **world.rng.choice(changes)))


def _delivery(world, step, _site):
    fewer = {"included": step.included[:-1], "sealed": step.sealed[:-1], "seeds": step.seeds[:-1]}
    changes = [fewer, {"included": step.included[:-1]}, {"seeds": step.seeds[::-1]}, {"sealed": ()}]
    return replace(step, **world.rng.choice(changes))


def _survivors(world, step, site):
    first, *rest = step.entries
    other = world.rng.choice([entry.site for entry in step.entries if entry.site != site])
    proper = tuple(entry for entry in step.entries if entry.site != other)
    lies = [proper, proper, (replace(first, digest=bytes(32)), *rest), (first, first, *rest), step.entries[:2], ()]
    return Survivors(world.rng.choice(lies))


def _agreements(world, step, _site):
    first, *rest = step.signatures
    lies = [tuple(rest[:1]), (first,) * len(step.signatures), tuple((site, bytes(64)) for site, _ in step.signatures)]
    return Agreements(world.rng.choice(lies))


LIES = {Invitation: _invitation, Delivery: _delivery, Survivors: _survivors, Agreements: _agreements}
