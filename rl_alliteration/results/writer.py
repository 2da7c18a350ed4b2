"""Write a trial's rows as immutable parts."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence

import pyarrow as pa

from rl_alliteration.errors import Failure
from rl_alliteration.foreign import Newer, encode_record
from rl_alliteration.results import schema
from rl_alliteration.results.parts import (
    Row,
    StoredPart,
    decode_part,
    encode_part,
    first_difference,
    row_digest,
    stored_parts,
    whole_ends,
)
from rl_alliteration.results.records import Manifest, PartDigest
from rl_alliteration.results.storage import Storage


class _Part:
    """One dataset's rows of a part, beside what is stored of it."""

    def __init__(self, dataset: str, path: str, rows: Sequence[Row]) -> None:
        self.dataset, self.path, self.rows = dataset, path, rows
        self.digests = [row_digest(row, dataset) for row in rows]
        """Of the rows; of those in the file, if it is kept."""
        self.data = b""
        """Of the file: as stored, if it is kept."""
        self.kept = False
        """Whether the file has these rows, and is the one of its checksum."""
        self.listed = False
        """Whether a checksum tells what its rows were."""
        self.lost = False
        """Whether the file is damaged and no checksum tells what its rows were."""
        self.strange = False
        """Whether there is a file with other rows, which was not there when the trial began."""
        self.differs_at: int | None = None
        """First generation at which stored rows are others."""

    def compare(self, storage: Storage, stored: StoredPart | None, end: int, *, repairs: bool) -> None:
        """Look at the file.

        Args:
            storage: the results.
            stored: the part as it was found.
            end: the generation after the part's last.
            repairs: a file that is not the one of its checksum is damaged, even if it has rows, and other ones.
        """
        listed = stored.manifest.parts.get(self.dataset) if stored and stored.manifest else None
        self.listed = listed is not None
        try:
            self.data = storage.get(self.path)
        except FileNotFoundError:
            found = None
        else:
            as_listed = listed is None or hashlib.sha256(self.data).hexdigest() == listed.sha256
            found = self._digests_of_file(as_listed)
            equal = found is not None and self._equal(found)
            self.kept = as_listed and equal
            if self.kept and found is not None:
                self.digests = found
            self.lost = found is None and listed is None
            if found is not None and not as_listed and (repairs or equal):
                found = None
        if found is not None:
            self.strange = stored is None and not equal
            # A kill may have come between updates and their texts, of which there were more or fewer.
            self.differs_at = self._difference(found, end, prefix=stored is not None and stored.generations is None)
        elif listed is not None:
            self.differs_at = self._difference(listed.rows, end, prefix=False)

    def _digests_of_file(self, as_listed: bool) -> list[str] | None:
        try:
            return [row_digest(row, self.dataset) for row in decode_part(self.data, self.path)]
        except pa.ArrowException:
            return None
        except Newer:
            if as_listed:
                raise
            return None  # a damaged version number

    def _equal(self, stored: Sequence[str]) -> bool:
        return len(stored) == len(self.rows) and first_difference(self.rows, self.dataset, stored) is None

    def _difference(self, stored: Sequence[str], end: int, *, prefix: bool) -> int | None:
        place = first_difference(self.rows, self.dataset, stored)
        if place is not None:
            return int(self.rows[place]["generation"])
        if prefix or len(stored) == len(self.rows):
            return None
        return int(self.rows[len(stored)]["generation"]) if len(stored) < len(self.rows) else end


class TrialWriter:
    """Collects a trial's rows and writes them, a part an interval. Parts are never changed.

    A trial that resumes computes some parts again. Each old part stays if the new rows equal its own; if they
    differ (other hardware or versions) it and all later ones are removed, from the last backwards, and replaced.
    What is missing of a part, or damaged, is written again if the new rows are the ones that its checksums tell of.
    """

    def __init__(self, storage: Storage, experiment: str, trial_id: str, run_id: str, *, repairs: bool = False) -> None:
        """`repairs`: the run is to restore what is damaged, and must not replace rows by others."""
        self.storage = storage
        self.experiment = experiment
        self.trial_id = trial_id
        self.run_id = run_id
        self.diverged_at: int | None = None
        """First generation whose rows differed from those stored before."""
        self._repairs = repairs
        self._texts: list[Row] = []
        self._updates: list[Row] = []
        self._unproven: list[list[_Part]] = []
        self._proven = not repairs
        """Whether those may be written."""
        self._stored = stored_parts(storage, experiment, trial_id)

    @property
    def pending(self) -> int:
        """Texts added since the last part, or not written yet."""
        return len(self._texts) + sum(len(parts[-1].rows) for parts in self._unproven)

    @property
    def unproven(self) -> bool:
        """Whether parts wait that nothing stored could be compared with: of them only `repairs` has any."""
        return bool(self._unproven)

    @property
    def edges(self) -> set[int]:
        """First generations and ends of the parts that are there: where a part must end again."""
        firsts = set(self._stored)
        return firsts | {part.end for part in self._stored.values() if part.end is not None}

    def holds(self, generation: int) -> bool:
        """Whether `generation` lies within a part that was there, and not at its edge: it is kept or restored whole."""
        parts = self._stored.values()
        return any(part.end is not None and part.first < generation < part.end for part in parts)

    def boundaries(self) -> set[int]:
        """Ends of the whole parts that follow on one another from generation 0: where a trial may go on."""
        return whole_ends(self._stored)

    def add(self, texts: Sequence[Row], update: Row | None) -> None:
        """Keep one step's rows until the part is written."""
        stamp = {"schema_version": schema.SCHEMA_VERSION, "run_id": self.run_id}
        self._texts += [{**stamp, **row} for row in texts]
        if update is not None:
            self._updates.append({**stamp, **update})

    def write_part(self, before_removal: Callable[[int], None] = lambda generation: None) -> None:
        """Publish what was added since the last part: updates, texts, then their checksums.

        Args:
            before_removal: called with the first generation of parts that are about to be replaced, or written anew:
                later states belong to rows that are gone.

        Raises:
            Failure: the storage refused, nothing is forgotten, and it can be tried again; or what is stored is
                damaged and cannot be compared with, or cannot be restored by this machine.
            Newer: rows would have to be replaced that a newer version wrote.
        """
        if not self._texts:
            if self._proven:
                self.store_unproven()  # whose writing failed half way
            return
        first, end = int(self._texts[0]["generation"]), int(self._texts[-1]["generation"]) + 1
        # Updates first: a reader who joins never finds texts whose update is missing.
        parts = [
            _Part(dataset, schema.part_path(dataset, self.experiment, self.trial_id, first), rows)
            for dataset, rows in (("steps", self._updates), ("generations", self._texts))
            if rows
        ]
        for part in parts:
            part.compare(self.storage, self._stored.get(first), end, repairs=self._repairs)
            if part.strange:
                raise Failure(f"{part.path} was written by another process meanwhile; run the same command again")
        differences = {part.path: part.differs_at for part in parts if part.differs_at is not None}
        if differences:
            path, at = min(differences.items(), key=lambda item: item[1])
            if self._repairs:
                raise Failure(
                    f"{path} cannot be restored here: from generation {at} on this machine computes other rows than "
                    "those that were stored; run the same command on the kind of machine that wrote them, or with "
                    "--recompute to replace them"
                )
            self._check_versions(first)
            if self.diverged_at is None:
                self.diverged_at = at
            before_removal(first)
            self._remove_from(first)
        elif not any(part.kept for part in parts) and any(part.lost for part in parts):
            path = next(part.path for part in parts if part.lost)
            raise Failure(
                f"{path} is damaged, and there is no checksum of it to compare with; delete it and run the same "
                "command again: it will be computed again"
            )
        elif first not in self._stored and not self._repairs:
            before_removal(first)
        if differences:
            for part in parts:
                part.kept = False
        self._unproven.append(parts)
        self._texts, self._updates = [], []
        self._proven = not self._repairs or any(part.kept or part.listed for part in parts)
        if self._proven:
            self.store_unproven()

    def store_unproven(self) -> None:
        """Write the parts that wait: what came after them has proved equal to what is stored, or nothing can.

        Raises:
            Failure: the storage refused; it can be tried again.
        """
        while self._unproven:
            parts = self._unproven[0]
            for part in parts:
                if not part.kept:
                    part.data = encode_part(part.rows, part.dataset)
                    self.storage.put(part.path, part.data)
                    part.kept = True
            texts = parts[-1].rows
            first = int(texts[0]["generation"])
            recorded = {part.dataset: PartDigest(hashlib.sha256(part.data).hexdigest(), part.digests) for part in parts}
            manifest = Manifest(first, len(texts), recorded)
            self.storage.put(schema.manifest_path(self.experiment, self.trial_id, first), encode_record(manifest))
            self._stored[first] = StoredPart(first, len(texts), manifest, {})
            self._unproven.pop(0)

    def _check_versions(self, first: int) -> None:
        """Whether this version may replace the parts from `first` on.

        Raises:
            Newer: one of them was written by a newer version, which alone knows what it holds.
        """
        for number, stored in self._stored.items():
            for dataset in ("generations", "steps") if number >= first else ():
                path = schema.part_path(dataset, self.experiment, self.trial_id, number)
                listed = stored.manifest.parts.get(dataset) if stored.manifest else None
                with contextlib.suppress(FileNotFoundError, pa.ArrowException):
                    data = self.storage.get(path)
                    if listed is None or hashlib.sha256(data).hexdigest() == listed.sha256:
                        decode_part(data, path)

    def _remove_from(self, first: int) -> None:
        for number in sorted((n for n in self._stored if n >= first), reverse=True):
            # Its checksums first: a part without them was never whole, or is being replaced.
            self.storage.delete(schema.manifest_path(self.experiment, self.trial_id, number))
            for dataset in ("generations", "steps"):
                self.storage.delete(schema.part_path(dataset, self.experiment, self.trial_id, number))
            del self._stored[number]
