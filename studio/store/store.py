"""The store as a whole: opened by the engine, reconciled after whatever was killed when."""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.core.errors import NotFound, Problem
from studio.core.journal import Action
from studio.core.names import variant_key
from studio.store.blobs import Blobs
from studio.store.files import clean_temps
from studio.store.jobs import JobStore
from studio.store.journal import Draft, Journal
from studio.store.manifests import ManifestName, Manifests, files_of, newest
from studio.store.workspace import Workspace


@dataclass(frozen=True)
class Store:
    """Blobs, manifests, journal and jobs of one workspace. `notices` say what was repaired, `problems` what was not."""

    workspace: Workspace
    blobs: Blobs
    manifests: Manifests
    journal: Journal
    jobs: JobStore
    notices: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def open(cls, workspace: Workspace) -> Store:
        """Opens and repairs. The caller holds the workspace's lock. Raises Unavailable for a disk that fails."""
        blobs = Blobs(workspace.blobs)
        manifests = Manifests(workspace.models, blobs)
        jobs = JobStore(workspace.jobs)
        for folder in (workspace.store, workspace.run):
            clean_temps(folder)
        blobs.clean()
        manifests.clean()
        jobs.clean()
        journal = Journal(workspace.journal)
        store = cls(workspace, blobs, manifests, journal, jobs)
        store.notices.extend(journal.notices)
        store.problems.extend(journal.problems)
        store._reconcile()
        return store

    def next_version(self, model: str) -> int:
        """The next free number. Those of purged versions are not used again: a reference keeps its meaning."""
        return self.manifests.next_version(model, self.journal.history.newest.get(model, 0))

    def purge(self, model: str, version: int) -> int:
        """Removes the manifests of a version and the blobs that nothing else names. Returns the bytes freed.

        The caller has written `version.purged` to the journal before: what a crash leaves undone is finished by `open`.
        Damaged manifests elsewhere keep every blob, because what they name is not known.
        """
        names = self.manifests.names()
        ours = [name for name in names if (name.model, name.version) == (model, version)]
        others = [name for name in names if (name.model, name.version) != (model, version)]
        candidates = self._files(ours, {})
        problems: dict[ManifestName, Problem] = {}
        kept = self._files(others, problems)
        self.manifests.delete(model, version)
        if problems:
            self.problems.extend(problems.values())
            return 0
        return self.blobs.remove(candidates - kept)

    def collect(self, min_age_seconds: float = 3600.0) -> int:
        """Removes blobs that no manifest names. Returns the bytes freed; 0 when a damaged manifest forbids it."""
        problems: dict[ManifestName, Problem] = {}
        kept = self._files(self.manifests.names(), problems)
        if problems:
            self.problems.extend(problems.values())
            return 0
        return self.blobs.collect(kept, min_age_seconds)

    def _files(self, names: list[ManifestName], problems: dict[ManifestName, Problem]) -> set[str]:
        return {file.sha256 for _, manifest in self.manifests.read_all(names, problems) for file in files_of(manifest)}

    def _reconcile(self) -> None:
        history = self.journal.history
        names = self.manifests.names()
        versions = {(name.model, name.version) for name in names if not name.variant}
        for model, version in sorted({(name.model, name.version) for name in names} & history.purged):
            freed = self.purge(model, version)
            versions.discard((model, version))
            self.notices.append(f"The interrupted purge of {model}:{version} was finished; {freed} bytes were freed.")
        drafts = [
            Draft(action="version.added", subject=f"{model}:{version}", actor="engine", why="found in the store")
            for model, version in sorted(versions - history.added)
        ]
        for name in newest(names):
            key = variant_key(name.version, name.variant)
            if not name.variant or (name.model, name.version) not in versions:
                continue
            recorded = history.variants.get((name.model, key), 0)
            if recorded < name.run:
                action: Action = "variant.judged" if recorded else "variant.added"
                subject = f"{name.model}:{key}"
                drafts.append(Draft(action=action, subject=subject, actor="engine", why="found in the store"))
        if drafts:
            self.journal.append_all(drafts)
            self.notices.append(
                f"{len(drafts)} manifests were in the store but not in the journal; they were recorded."
            )
        for model, version in sorted(history.added - versions):
            self.problems.append(
                Problem(
                    code=NotFound.code,
                    what=f"The manifest of {model}:{version} is missing.",
                    why="The journal says that it was added, and not that it was purged.",
                    fix=f"Restore store/models/{model}/{version}.json from a backup, or add the model again.",
                )
            )
