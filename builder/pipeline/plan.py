"""The one rule: a plan writes nothing, asks no network, and gives a reason for each stage."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from builder.errors import RecipeError
from builder.pipeline import changes
from builder.settings import Settings
from builder.stage import Action, Plan, Stage, Step, digest
from builder.store.store import ABSENT, Store

ASKED = "asked for by --rebuild"


def plan(
    stages: Sequence[Stage],
    order: Any,
    store: Store,
    settings: Settings,
    *,
    until: str | None = None,
    fresh: Collection[str] = frozenset(),
) -> Plan:
    """Say what has to be done for the order, and why; writes nothing and asks no network.

    Args:
        stages: in the order in which they run; each needs only earlier ones.
        order: the resolved request: has a `name`, and what `Stage.inputs` reads.
        until: the last stage wanted.
        fresh: stages to run anew, with all that follows from them.

    Raises:
        RecipeError: there is no stage of such a name, or `fresh` names one that comes after `until`.
    """
    names = [stage.name for stage in stages]
    for name in [*fresh, *([until] if until else [])]:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise RecipeError(
                f"there is no stage {name}",
                f"stages: {', '.join(names)}",
                f"did you mean {near[0]}?" if near else "",
            )
    steps: list[Step] = []
    digests: dict[str, str] = {}
    for stage in stages:
        inputs = stage.inputs(order)
        digests[stage.name] = digest(stage, inputs, digests)
        steps.append(Step(stage, inputs, digests[stage.name], "not needed", ""))
    whole = Plan(order.name, tuple(steps), until or names[-1], frozenset(fresh))
    beyond = sorted(whole.fresh - closure(whole))
    if beyond:
        raise RecipeError(f"{whole.end} does not depend on {beyond[0]}, which is asked for by --rebuild")
    return decide(whole, store, settings, dict.fromkeys(fresh, ASKED))


def decide(given: Plan, store: Store, settings: Settings, forced: Mapping[str, str]) -> Plan:
    """The same plan with actions and reasons as the store is now.

    Args:
        forced: stages to run even if their objects stand, with the reason; what needs them is run after them.
    """
    inside = closure(given)
    forced = dict(forced)
    anew = dict(forced)
    for step in given.steps:
        _follow(step, anew, inside, anew)
    looked = cache(lambda name: fault(by_name[name], by_name, store, settings))
    by_name = {step.stage.name: step for step in given.steps}

    def why(name: str) -> str | None:
        found = looked(name)
        if name in forced or found is None:
            return forced.get(name) or anew.get(name)
        if found != ABSENT:
            return found
        last = store.recall(given.name, name)
        if last is not None and last.digest == by_name[name].digest and name in anew:
            return anew[name]
        return _what_changed(given, by_name[name], by_name, store)

    while True:
        actions, said = _walk_back(given, inside, anew.keys(), why)
        running = {name: "" for name, action in actions.items() if action == "run"}
        count = len(anew)
        for step in given.steps:
            if actions[step.stage.name] == "reuse":
                _follow(step, running, inside, anew)
        if len(anew) == count:
            break
    decided = tuple(replace(step, action=actions[name], reason=said[name]) for name, step in by_name.items())
    return replace(given, steps=decided)


def _follow(step: Step, running: Mapping[str, str], inside: set[str], anew: dict[str, str]) -> None:
    """A stage that reads what is built anew has to be run, too."""
    name = step.stage.name
    read = [need for need in step.stage.needs if need in running]
    if read and name in inside and name not in anew:
        anew[name] = f"{' and '.join(read)} {'is' if len(read) == 1 else 'are'} built anew"


def _walk_back(
    given: Plan, inside: set[str], anew: Collection[str], why: Callable[[str], str | None]
) -> tuple[dict[str, Action], dict[str, str]]:
    """From the wanted end to the beginning: what stands is reused; what does not is run, and wants its needs."""
    actions: dict[str, Action] = {}
    said: dict[str, str] = {}
    wanted = {given.end}
    for step in reversed(given.steps):
        name = step.stage.name
        if name not in inside:
            actions[name], said[name] = "not needed", f"the run ends with {given.end}"
        elif name not in wanted and name not in anew:
            readers = [one.stage.name for one in given.steps if name in one.stage.needs and one.stage.name in inside]
            actions[name], said[name] = "not needed", f"only {' and '.join(readers)} would read it"
        elif (reason := why(name)) is None:
            actions[name], said[name] = "reuse", "finished object found"
        else:
            actions[name], said[name] = "run", reason
            wanted.update(step.stage.needs)
    return actions, said


def fault(step: Step, by_name: Mapping[str, Step], store: Store, settings: Settings) -> str | None:
    """Why the step's finished object is not good enough; None when it is."""
    reason = store.fault(step.digest, needs_of(step, by_name))
    if reason is None and step.stage.stands is not None:
        try:
            reason = step.stage.stands(store.path(step.digest), settings)
        except FileNotFoundError:
            # Another run replaces or drops it at this moment.
            reason = ABSENT
    return reason


def _what_changed(given: Plan, step: Step, by_name: Mapping[str, Step], store: Store) -> str:
    """Compare with what was built last for the order of this name."""
    last = store.recall(given.name, step.stage.name)
    if last is None:
        return "first run"
    if last.digest == step.digest:
        return "finished object was dropped, and is needed again"
    found = []
    if last.version != step.stage.version:
        found.append(f"stage version {last.version} → {step.stage.version}")
    found += changes.changes(last.inputs, step.inputs.model_dump(mode="json"))
    needs = needs_of(step, by_name)
    found += [f"{name} changed" for name in needs if last.needs.get(name) != needs[name]]
    found += [f"{name} is not needed any more" for name in last.needs if name not in needs]
    return ", ".join(found) or "inputs changed"


def needs_of(step: Step, by_name: Mapping[str, Step]) -> dict[str, str]:
    return {name: by_name[name].digest for name in step.stage.needs}


def closure(given: Plan) -> set[str]:
    """The wanted end and everything it needs, directly or not."""
    found = {given.end}
    for step in reversed(given.steps):
        if step.stage.name in found:
            found.update(step.stage.needs)
    return found
