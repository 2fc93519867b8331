"""One net: its sound exports, and faults planted in them.

A fault is a mutation of the source. The mutated source goes through the real conversion, and the artifact is
verified against the sound source's reference by the real verifier. Other faults are planted in a sound artifact
(`tests.faults.spoiled`), because only an artifact can have them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from registry_export.bench import Bench, run_reference
from registry_export.config import parse_targets
from registry_export.entities import Interface, Status, Target, Tolerance, Verification
from registry_export.errors import RegistryExportError
from registry_export.graph import ExportPlan, PlannedTarget, plan_export
from registry_export.inference import Origin
from registry_export.isolation import ChildPool
from registry_export.reference import Reference
from registry_export.targets import Made, export_targets
from registry_export.verification import verify
from tests.faults.nets import NETS
from tests.support.laboratory import FORMATS


@dataclass(frozen=True)
class Control:
    """The unmutated source in one format: the verdict, and by which route it came about."""

    status: str
    reason: str = ""
    route: str = ""
    seconds: float = 0.0


@dataclass
class Planted:
    """One fault in one format, and what became of it.

    Attributes:
        verdict: `verified` is a miss; empty: not planted, because the converter refused the mutated model.
        reason: Why it is not verified.
        rung: The first rung that caught it; empty where it was caught before any ran.
        effect: The largest difference between mutated and sound source, in units of the tolerance in force,
            on the rungs that were run and judged.
        anywhere: The same on all rungs, those that the artifact's fixed sizes leave out too.
        hidden: The same on inputs that the ladder does not have.
        allclose: Whether `np.allclose` on one random input notices it.
        where: `source` or `artifact`.
    """

    net: str
    kind: str
    fault: str
    format: str
    verdict: str = ""
    reason: str = ""
    rung: str = ""
    effect: float = 0.0
    anywhere: float = 0.0
    hidden: float = 0.0
    allclose: bool = False
    where: str = "source"


@dataclass
class Workbench:
    """A net, made on first need.

    Attributes:
        net: Its name.
        pool: Runs the children.
        folder: Where all of it is made.
        formats: The formats to plant in.
    """

    net: str
    pool: ChildPool
    folder: Path
    formats: Sequence[str]
    made: dict[str, Made] = field(default_factory=dict)

    @cached_property
    def catalogue(self) -> dict[str, Any]:
        """What the child has written: the sound source, the mutated ones, the example."""
        return self._call("build", {"folder": str(self.folder / "nets")})

    @cached_property
    def reference(self) -> Reference:
        """The sound source's answers."""
        return run_reference(self._bench("sound"), self._source, self.catalogue["example"], "example", self._targets)

    @cached_property
    def plan(self) -> ExportPlan:
        """Every format's routes."""
        return plan_export(FORMATS[NETS[self.net].format], self._targets, FORMATS)

    @cached_property
    def controls(self) -> dict[str, Control]:
        """The sound source in every format."""
        reference = self.reference
        self.made = export_targets(self._bench("control"), self._source, self.plan, self.plan.targets, reference)
        return {planned.target.variant: self._control(planned) for planned in self.plan.targets}

    def _control(self, planned: PlannedTarget) -> Control:
        result, _ = self.made[planned.target.variant]
        reason = result.error.message if result.error else result.verification.reason if result.verification else ""
        route = ""
        for position, route in enumerate(planned.routes):
            way = " → ".join(self.plan.steps[route].path)
            attempt = result.attempts[position] if position < len(result.attempts) else None
            if attempt is None or attempt.way != way or not attempt.error:
                break
        return Control(result.status, reason, route, result.convert_seconds or 0.0)

    @property
    def tolerance(self) -> Tolerance:
        """The tolerance in force, as every verification of this net records it."""
        for result, _ in self.made.values():
            if result.verification is not None and result.verification.tolerance is not None:
                return result.verification.tolerance
        raise AssertionError(f"no format of {self.net} was verified: {self.controls}")

    @cached_property
    def effects(self) -> list[dict[str, Any]]:
        """What each fault does to the source."""
        names = [spec.name for spec in self.reference.interface.outputs]
        arguments = {
            "source": self.catalogue["source"],
            "example": self.catalogue["example"],
            "faults": [fault["path"] for fault in self.catalogue["faults"]],
            "rungs": [rung.inputs for rung in self.reference.rungs],
            "noise": [[rung.noise.get(name, 0.0) for name in names] for rung in self.reference.rungs],
            "tolerance": asdict(self.tolerance),
        }
        return self._call("effects", arguments)

    def plant(self, number: int, formats: Sequence[str]) -> list[Planted]:
        """Convert one mutated source into several formats, each by the sound one's route, and verify it."""
        fault, controls = self.catalogue["faults"][number], self.controls
        targets = [
            PlannedTarget(planned.target, (controls[planned.target.variant].route,))
            for planned in self.plan.targets
            if planned.target.variant in formats
        ]
        bench = self._bench(f"fault-{number}-{'-'.join(formats)}")
        made = export_targets(bench, self._origin(fault["path"]), self.plan, targets, self.reference)
        planted = [self._planted(number, variant, result.verification, result.error.message if result.error else "")
                   for variant, (result, _) in made.items()]  # fmt: skip
        for record in planted:
            missed = record.verdict == Status.VERIFIED and record.effect > 1
            if missed and not self._carries(bench, fault, made, record):
                record.verdict, record.reason = "", "the converter leaves out what was changed"
        shutil.rmtree(bench.work, ignore_errors=True)
        return planted

    def _carries(self, bench: Bench, fault: Mapping[str, str], made: Mapping[str, Made], record: Planted) -> bool:
        """Say whether an artifact answers as the mutated source does: else the fault is not in it."""
        result, folder = made[record.format]
        assert folder is not None
        assert result.description is not None
        format_ = FORMATS[result.format]
        again = Bench(FORMATS, self.pool, bench.work / f"again-{record.format}")
        (again.work / "verify").mkdir(parents=True)
        artifact = Origin(format_.name, str(folder / format_.filename), result.description.interface)
        try:
            mutated = run_reference(again, self._origin(fault["path"]), self.catalogue["example"], "example", ())
            # What makes a source unfit to be judged against (NaN) is the fault itself here.
            mutated = replace(mutated, rungs=tuple(replace(rung, unfit="") for rung in mutated.rungs))
            found = verify(self.pool, format_.toolchain, artifact, mutated, self.tolerance, again.work / "verify")
        except RegistryExportError:
            return True
        return found.status is not Status.MISMATCH

    def _planted(self, number: int, variant: str, verification: Verification | None, error: str) -> Planted:
        fault, found = self.catalogue["faults"][number], self.effects[number]
        record = Planted(self.net, fault["kind"], fault["name"], variant, reason=error)
        record.hidden, record.allclose = found["hidden"], found["noticed"]
        record.anywhere = max(found["rungs"])
        judge(record, verification, found["rungs"])
        if record.verdict == Status.UNVERIFIED:  # the sound one was verified: what was put in cannot be run here
            record.verdict = ""
        return record

    @property
    def _targets(self) -> tuple[Target, ...]:
        return parse_targets(", ".join(self.formats), "the faults", FORMATS)

    @property
    def _source(self) -> Origin:
        return self._origin(self.catalogue["source"])

    def _origin(self, path: str) -> Origin:
        interface = msgspec.convert({"inputs": self.catalogue["inputs"]}, Interface)
        return Origin(NETS[self.net].format, path, interface)

    def _bench(self, name: str) -> Bench:
        work = self.folder / name
        work.mkdir(parents=True)
        return Bench(FORMATS, self.pool, work, explain=False)

    def _call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        side = NETS[self.net]
        work = Path(tempfile.mkdtemp(dir=self.folder))
        arguments = {"net": self.net, **arguments}
        writes = (self.folder,)
        return self.pool.call(side.toolchain, f"{side.module}:{function}", arguments, work, writes=writes).value


def judge(record: Planted, verification: Verification | None, effects: Sequence[float]) -> None:
    """Write a verdict into a record: which rung caught it, and the effect on those that were run."""
    if verification is None:
        return
    record.verdict, record.reason = verification.status, verification.reason or record.reason
    if not verification.rungs:  # it crashed, or could not be loaded: there is nothing that it answered
        record.effect = record.anywhere
        return
    ran = [(rung, size) for rung, size in zip(verification.rungs, effects, strict=True)
           if rung.judged and not rung.reason.startswith("not run")]  # fmt: skip
    record.effect = max((size for _, size in ran), default=0.0)
    bad = (Status.MISMATCH, Status.FAILED)
    record.rung = next((rung.name for rung, _ in ran if rung.status in bad), "")
