"""Planning: which stages have to run for a build, and why.

Invariant: a plan writes nothing, asks no network, and gives a reason for each stage.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from builder.errors import RecipeError
from builder.pipeline import changes
from builder.settings import Paths
from builder.stage import Action, Plan, Reason, ReasonKind, Stage, Step, digest
from builder.store.store import ABSENT, Store

ASKED = Reason(ReasonKind.ASKED, "asked for by --rebuild")
# Stages that had another name in earlier versions; for one version they are refused with the new name.
RENAMED = {"answers": "kickstart", "medium": "remaster"}


def plan(
    stages: Sequence[Stage[Any]],
    spec: Any,
    store: Store,
    paths: Paths,
    *,
    fresh: Collection[str] = frozenset(),
) -> Plan:
    """Decide what has to be done for a build, and why; writes nothing and asks no network.

    Args:
        stages: in the order in which they run; each needs only earlier ones, and the last one makes what is wanted.
        spec: the build's specification: has a `name`, and what `Stage.inputs` reads.
        fresh: stages to run anew, with all that follows from them.

    Raises:
        RecipeError: `fresh` names a stage that does not exist.
    """
    names = [stage.name for stage in stages]
    for name in fresh:
        if name not in names:
            raise _unknown(name, names)
    steps: list[Step] = []
    digests: dict[str, str] = {}
    for stage in stages:
        inputs = stage.inputs(spec)
        digests[stage.name] = digest(stage, inputs, digests)
        steps.append(Step(stage, inputs, digests[stage.name], "not needed", "", ReasonKind.NOT_NEEDED))
    return decide(Plan(spec.name, tuple(steps), frozenset(fresh)), store, paths, dict.fromkeys(fresh, ASKED))


def _unknown(name: str, names: Sequence[str]) -> RecipeError:
    if name in RENAMED:
        return RecipeError(f"the stage {name} was renamed", hint=f"it is called {RENAMED[name]} now")
    near = difflib.get_close_matches(name, names, n=1)
    return RecipeError(
        f"there is no stage {name}", f"stages: {', '.join(names)}", f"did you mean {near[0]}?" if near else ""
    )


def decide(given: Plan, store: Store, paths: Paths, forced: Mapping[str, Reason]) -> Plan:
    """Return the same plan with actions and reasons as the store is now.

    Args:
        forced: stages to run even if their objects are up to date, with the reason; what needs them is run after them.
    """
    forced = dict(forced)
    rebuilt = dict(forced)
    for step in given.steps:
        _follow(step, rebuilt, rebuilt)
    by_name = {step.stage.name: step for step in given.steps}
    looked = cache(lambda name: why_stale(by_name[name], by_name, store, paths))

    def why(name: str) -> Reason | None:
        stale = looked(name)
        if name in forced or stale is None:
            return forced.get(name) or rebuilt.get(name)
        if stale.kind is not ReasonKind.DELETED:
            return stale
        last = store.recall(given.name, name)
        if last is not None and last.digest == by_name[name].digest and name in rebuilt:
            return rebuilt[name]
        return _what_changed(given, by_name[name], by_name, store)

    while True:
        actions, reasons = _walk_back(given, rebuilt.keys(), why)
        running = [name for name, action in actions.items() if action == "run"]
        count = len(rebuilt)
        for step in given.steps:
            if actions[step.stage.name] == "reuse":
                _follow(step, running, rebuilt)
        if len(rebuilt) == count:
            break
    decided = tuple(
        replace(step, action=actions[name], reason=reasons[name].text, reason_kind=reasons[name].kind)
        for name, step in by_name.items()
    )
    return replace(given, steps=decided)


def _follow(step: Step, running: Collection[str], rebuilt: dict[str, Reason]) -> None:
    """Add a stage that reads what is rebuilt: it has to be run, too."""
    name = step.stage.name
    read = [need for need in step.stage.needs if need in running]
    if read and name not in rebuilt:
        text = f"{' and '.join(read)} {'is' if len(read) == 1 else 'are'} built anew"
        rebuilt[name] = Reason(ReasonKind.CONSEQUENCE, text)


def _walk_back(
    given: Plan, rebuilt: Collection[str], why: Callable[[str], Reason | None]
) -> tuple[dict[str, Action], dict[str, Reason]]:
    """Go from the last stage to the first: what is up to date is reused; what is not is run, and wants its needs."""
    actions: dict[str, Action] = {}
    reasons: dict[str, Reason] = {}
    wanted = {given.steps[-1].stage.name}
    for step in reversed(given.steps):
        name = step.stage.name
        if name not in wanted and name not in rebuilt:
            readers = [other.stage.name for other in given.steps if name in other.stage.needs]
            actions[name] = "not needed"
            reasons[name] = Reason(ReasonKind.NOT_NEEDED, f"only {' and '.join(readers)} would read it")
        elif (reason := why(name)) is None:
            actions[name], reasons[name] = "reuse", Reason(ReasonKind.FOUND, "finished object found")
        else:
            actions[name], reasons[name] = "run", reason
            wanted.update(step.stage.needs)
    return actions, reasons


def why_stale(step: Step, by_name: Mapping[str, Step], store: Store, paths: Paths) -> Reason | None:
    """Return why the step's finished object cannot be used; None when it can."""
    reason = store.why_stale(step.digest, needs_of(step, by_name))
    if reason is None and step.stage.why_stale is not None:
        try:
            outdated = step.stage.why_stale(store.path(step.digest), paths)
            reason = None if outdated is None else Reason(ReasonKind.OUTDATED, outdated)
        except FileNotFoundError:
            # Another run replaces or drops it at this moment.
            reason = ABSENT
    return reason


def _what_changed(given: Plan, step: Step, by_name: Mapping[str, Step], store: Store) -> Reason:
    """Compare with what was built last for this name."""
    last = store.recall(given.name, step.stage.name)
    if last is None:
        return Reason(ReasonKind.FIRST_RUN, "first run")
    if last.digest == step.digest:
        return Reason(ReasonKind.DELETED, "finished object was dropped, and is needed again")
    changed, kind = [], ReasonKind.INPUTS_CHANGED
    if last.version != step.stage.version:
        kind = ReasonKind.STAGE_VERSION
        changed.append(f"stage version {last.version} → {step.stage.version}")
    changed += changes.changes(last.inputs, step.inputs.model_dump(mode="json"))
    needs = needs_of(step, by_name)
    changed += [f"{name} changed" for name in needs if last.needs.get(name) != needs[name]]
    changed += [f"{name} is not needed any more" for name in last.needs if name not in needs]
    return Reason(kind, ", ".join(changed) or "inputs changed")


def needs_of(step: Step, by_name: Mapping[str, Step]) -> dict[str, str]:
    """Return the digest of each stage that the step needs, by name."""
    return {name: by_name[name].digest for name in step.stage.needs}
