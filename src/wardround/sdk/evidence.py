"""What a run showed, from its events and findings: one document for programs, from which the report is drawn.

Advice is plain words from simple rules, each with the figure that it rests on:

    own model     a site whose own model is better, or worse, than the global one by two points or more, and beyond
                  the 95 % interval of its records where that is known
    direction     a site whose updates point away from what became of all of them
    reach         a site whose updates are three times as long as is usual
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from wardround.errors import ConfigError
from wardround.privacy import accounting, mechanisms, rdp
from wardround.protocol import private
from wardround.protocol.plan import Plan, Privacy
from wardround.sdk.findings import analysis_results

__all__ = ["evidence"]

_POINTS = 0.02
_REACH = 3.0
_LEADING = ("auc", "accuracy", "c_index", "r2")
"""What is compared between models; higher is better in all of them."""

Event = Mapping[str, Any]


def evidence(plan: Plan, events: Sequence[Event], findings: Mapping[str, bytes]) -> dict[str, Any]:
    """The document.

    Args:
        plan: The study's plan.
        events: The run's, in order, as plain values.
        findings: Canonical JSON by name, as in `wardround.protocol.events.RoundCombined`.

    Returns:
        `sites`: for each whose own figures are known its last `metrics` (value, low, high), `personal` and `divergence`
        by round; `pooled`: the same over all sites, where only that is known; `appraisal`, `analyses`, `summaries`,
        where the plan asked for them; `privacy`, in a private plan: what each site has spent at most; `advice`:
        sentences.
    """
    found: dict[str, Any] = {"title": plan.title, "sites": _sites(events), "pooled": _pooled(events)}
    if plan.privacy is not None:
        found["privacy"] = _privacy(plan, plan.privacy, events)
    for name in ("appraisal", "summaries"):
        if name in findings:
            found[name] = json.loads(findings[name])
    if "analyses" in findings:
        found["analyses"] = json.loads(analysis_results(plan, findings["analyses"]))
    found["advice"] = [*_own_models(found["sites"]), *_directions(found["sites"])]
    return found


def _privacy(plan: Plan, privacy: Privacy, events: Sequence[Event]) -> dict[str, Any]:
    """What the rounds that took place cost each site at most, and on what that rests."""
    opened = Counter(event["kind"] for event in events if event["event"] == "round-opened")
    uses = private.uses(plan)
    done = [
        msgspec.structs.replace(one, steps=one.steps * min(opened[kind], count))
        for kind, (one, count) in uses.items()
        if opened[kind]
    ]
    costs = [rdp.cost(one) for one in done]
    totals = [math.fsum(parts) for parts in zip(*costs, strict=True)] if costs else [0.0] * len(rdp.ORDERS)
    try:
        tight: float | None = accounting.tight_epsilon(done, privacy.delta) if done else 0.0
    except ConfigError:
        tight = None
    return {
        "unit": privacy.unit,
        "noise": privacy.noise,
        "delta": privacy.delta,
        "epsilon": rdp.epsilon(totals, privacy.delta) if done else 0.0,
        "tight_epsilon": tight,
        "planned_epsilon": private.epsilon(plan),
        "relation": f"one {privacy.unit}, replaced by zeros; how many there are is not hidden",
        "mechanisms": [
            {"kind": kind, "rounds": opened[kind], **msgspec.to_builtins(one), "sampling": mechanisms.sampling(one)}
            for kind, (one, _) in uses.items()
        ],
    }


def _sites(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    sites: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["event"] != "update-accepted" or not event.get("evaluation"):
            continue
        said = event["evaluation"]
        bounds = said.get("intervals") or {}
        site = sites.setdefault(event["site"], {"divergence": []})
        site["records"] = said["records"]
        site["metrics"] = {
            name: {"value": value, "low": bounds.get(name, (None,))[0], "high": bounds.get(name, (None,))[-1]}
            for name, value in said["metrics"].items()
        }
        site["personal"] = said.get("personal") or {}
        if apart := said.get("divergence"):
            site["divergence"].append({"round": event["number"], **apart})
    return sites


def _pooled(events: Iterable[Event]) -> dict[str, Any]:
    combined = [event["evaluation"] for event in events if event["event"] == "round-combined" and event["evaluation"]]
    last = combined[-1] if combined else {}
    return {"metrics": last.get("metrics", {}), "personal": last.get("personal", {})}


def _own_models(sites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    words = []
    for name, site in sorted(sites.items()):
        for metric in _LEADING:
            common, own = site["metrics"].get(metric, {}).get("value"), site["personal"].get(metric)
            if common is None or own is None:
                continue
            gain, known = own - common, site["metrics"][metric]
            is_noise = known["low"] is not None and known["low"] <= own <= known["high"]
            on = f"{metric} on {site['records']} held-out records"
            if gain >= _POINTS and not is_noise:
                words.append(f"{name} gains {100 * gain:.0f} points of {on} by its personal model: use that one.")
            elif gain <= -_POINTS and not is_noise:
                words.append(f"{name} loses {-100 * gain:.0f} points of {on} by its personal model: use the other.")
            break
    return words


def _directions(sites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    cosines, norms = {}, {}
    for name, site in sites.items():
        late = site["divergence"][len(site["divergence"]) // 2 :]
        angles = [one["cosine"] for one in late if one["cosine"] is not None]
        if angles:
            cosines[name] = statistics.fmean(angles)
        if late:
            norms[name] = statistics.fmean(one["norm"] for one in late)
    words = [
        f"{name} pulls against the others (mean cosine {cosine:.2f}): give it a local head, or ask how its data differ."
        for name, cosine in sorted(cosines.items())
        if cosine < 0
    ]
    usual = statistics.median(norms.values()) if norms else 0.0
    for name, norm in sorted(norms.items()):
        if norm > _REACH * usual > 0:
            words.append(
                f"{name} moves {norm / usual:.1f} times as far as the median site: look at its units and its class mix."
            )
    return words
