"""Compare what is at the output path with its sources, and find the update that a run makes or resumes.

complete store ──────────── nothing changed: done ─ changed: refused, or an update of it
unfinished first run ────── its finished shards did not change: resume ─ changed: an update of them
unfinished update ───────── the sources are as they were: resume ─ changed: an update of all that is there
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dinodeploy.errors import BundleError, OutputExistsError
from dinodeploy.sources.stamps import Stamps
from dinodeploy.store.existing import Target
from dinodeploy.store.generations import BASE, base_of, load_old, pooled
from dinodeploy.store.manifest import StoreManifest, read_manifest_file
from dinodeploy.store.plan import Plan
from dinodeploy.store.update import Changes, Follow, Update, plan_update

_FIX = (
    "pass --update to follow them (--keep-missing keeps the rows of missing images), "
    "or --overwrite to start again"
)


def find_update(
    out: Path, plan: Plan, target: Target, stamps: Stamps, follow: Follow
) -> tuple[Changes, Update | None]:
    """What changed, and the update to make or to resume; None: nothing to do, or the first run continues.

    Raises OutputExistsError, which counts the changes, for changes without `follow.update`.
    """
    found = _Found(out, plan, stamps, follow)
    if target.complete is None:
        assert target.begun is not None
        if target.begun.pieces is None:
            return found.first_run(target.begun)
        return found.resumed(target.begun, _any_base(out, target.begun), 1)
    update = found.update_of(target.complete)
    if not update.changes and not (follow.update and update.changes.unrecorded):
        return update.changes, None
    if not follow.update:
        raise OutputExistsError(f"{out}: {update.changes} since it was made; {_FIX}")
    if target.begun is None or target.begun.pieces is None or is_same(target.begun, update.plan):
        return update.changes, update
    base = base_of(out, target.begun) or target.complete
    return update.changes, found.resumed(target.begun, base, target.complete.generation + 1)[1]


def is_same(begun: Plan, plan: Plan) -> bool:
    """Whether a run of `plan` resumes `begun`; the batch size stays that of `begun`."""
    return replace(begun, batch=1) == replace(plan, batch=1)


class _Found:
    """One comparison: the arguments of `find_update`."""

    def __init__(self, out: Path, plan: Plan, stamps: Stamps, follow: Follow) -> None:
        self._out, self._plan, self._stamps, self._follow = out, plan, stamps, follow

    def update_of(self, manifest: StoreManifest) -> Update:
        old, usable = load_old(self._out, manifest, verify=self._follow.verify)
        return plan_update(self._plan, old, usable, self._stamps, self._follow)

    def resumed(self, begun: Plan, base: StoreManifest, generation: int) -> tuple[Changes, Update]:
        """The update `begun`, or one that copies from all that it has finished."""
        update = self.update_of(base)
        if not is_same(begun, update.plan):
            if not self._follow.update:
                raise OutputExistsError(f"{self._out}: {update.changes} since its update was begun; {_FIX}")
            update = self.update_of(pooled(self._out, base, begun, generation))
        return update.changes, update

    def first_run(self, begun: Plan) -> tuple[Changes, Update | None]:
        """None where the first run can continue."""
        plan = self._plan
        listed = (begun.listing_sha256, begun.pictures) == (plan.listing_sha256, plan.pictures)
        finished = pooled(self._out, None, begun, 1)
        if listed and not finished.shards:
            return Changes(), None
        update = self.update_of(finished)
        changes = replace(update.changes, new=0, moved=False)  # most are new, because they are not finished
        if listed and not changes:
            return Changes(), None
        if not self._follow.update:
            other = "" if listed else f"begun with {begun.pictures} images, now {plan.pictures}"
            text = ", ".join(filter(None, [other, str(changes)]))
            raise OutputExistsError(f"{self._out}: {text} since it was begun; {_FIX}")
        return update.changes, update


def _any_base(out: Path, begun: Plan) -> StoreManifest:
    """What an update without a complete store copies from. Raises BundleError."""
    base = base_of(out, begun)
    if base is None and (out / BASE).is_file():
        base = read_manifest_file(out / BASE)
    if base is None:
        raise BundleError(
            f"{out}: the store that it was updated from is gone; pass --overwrite to start again"
        )
    return base
