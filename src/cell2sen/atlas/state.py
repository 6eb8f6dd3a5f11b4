"""Status of a run: what is done, what failed and why, on which machines, and what killed writers left behind."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cell2sen.atlas import shards
from cell2sen.atlas.plan_file import Plan

#: Seconds after which a temporary file belongs to no writer any more.
_OLD = 3600


@dataclass(frozen=True, kw_only=True)
class Status:
    """State of a run."""

    verb: str
    plan: str
    """Hash of the plan."""

    shards: int
    done: int
    cells: int
    cells_done: int
    failed: dict[int, str] = field(default_factory=dict)
    """Shard that is not done → last line of its last error."""

    damaged: dict[int, str] = field(default_factory=dict)
    """Shard that cannot be read → why."""

    environments: list[dict[str, Any]] = field(default_factory=list)
    """Kinds of machines and versions, with their numbers of shards; several may differ in the last bits."""

    warnings: dict[str, int] = field(default_factory=dict)
    """Warning → shards that had it."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Input that the plan left out → why."""

    leftovers: int = 0
    """Temporary files of writers that were killed, or that still write."""

    @property
    def finished(self) -> bool:
        """Whether all shards are there."""
        return self.done == self.shards and not self.damaged

    def __str__(self) -> str:
        percent = 100 * self.cells_done // max(self.cells, 1)
        lines = [
            f"{self.verb}: {self.done:,} of {self.shards:,} shards, {self.cells_done:,} of {self.cells:,} cells "
            f"({percent} %)"
        ]
        causes = Counter(self.failed.values())
        lines += [f"failed: {n} shards: {text}" for text, n in causes.most_common(5)]
        lines += [f"damaged: {text}" for text in list(self.damaged.values())[:5]]
        lines += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        if len(self.environments) > 1:
            kinds = "; ".join(
                f"{each['shards']} on {each['processor']} ({each['device']})" for each in self.environments
            )
            lines.append(f"several kinds of machines, whose results may differ in the last bits: {kinds}")
        lines += [f"warning in {n} shards: {text}" for text, n in list(self.warnings.items())[:5]]
        if self.leftovers:
            lines.append(f"{self.leftovers} temporary files: --clean removes those that are older than an hour")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All as plain values."""
        return asdict(self) | {"finished": self.finished}


def status(out: str | Path, *, verify: bool = False, clean: bool = False) -> Status:
    """State of a run. Nothing is computed.

    Parameters
    ----------
    out
        Folder with a plan.
    verify
        Read all shards and compare their checksums.
    clean
        Remove temporary files that are older than an hour and, with `verify`, damaged shards, which the next run makes
        again.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no plan, or it was changed.
    """
    folder = Path(out)
    plan = Plan.read(folder)
    done = shards.finished(folder, plan)
    damaged: dict[int, str] = {}
    environments: Counter[str] = Counter()
    warnings: Counter[str] = Counter()
    hashes = _hashes(folder, plan) if verify else {}
    for number in sorted(done):
        file = shards.shard_file(folder, number)
        try:
            if verify:
                _, metadata = shards.read_shard(file, plan, number)
                if number in hashes and hashes[number] != shards.sha256(file):
                    raise shards.Damaged(f"{file} is not that of the manifest: remove it, and run again")
            else:
                metadata = shards.check_shard(file, plan, number)
        except shards.Damaged as error:
            damaged[number] = str(error)
            if verify and clean:
                file.unlink()
            continue
        environments[json.dumps(metadata["environment"], sort_keys=True)] += 1
        warnings.update(metadata["warnings"])
    if clean:
        for file in shards.leftovers(folder):
            if time.time() - file.stat().st_mtime > _OLD:
                file.unlink(missing_ok=True)
    good = done - set(damaged)
    return Status(
        verb=plan.verb,
        plan=plan.id,
        shards=len(plan.shards),
        done=len(good),
        cells=plan.n_cells,
        cells_done=sum(plan.shards[number][2] - plan.shards[number][1] for number in good),
        failed={number: shards.cause(text) for number, text in shards.failures(folder).items() if number not in good},
        damaged=damaged,
        environments=[{"shards": n, **json.loads(text)} for text, n in sorted(environments.items())],
        warnings=dict(warnings.most_common()),
        left_out=dict(plan.left_out),
        leftovers=len(shards.leftovers(folder)),
    )


def _hashes(folder: Path, plan: Plan) -> dict[int, str]:
    manifest = shards.read_manifest(folder, plan)
    return {} if manifest is None else {row["shard"]: row["sha256"] for row in manifest["shards"]}
