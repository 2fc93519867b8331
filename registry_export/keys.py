"""What a target's result depends on, as one key: results with the same key are interchangeable."""

from __future__ import annotations

from pathlib import Path

from registry_export.bench import Bench
from registry_export.checkpoint import Checkpoint
from registry_export.graph import ExportPlan, PlannedTarget
from registry_export.manifest import combined_digest, export_key, file_records, tool_versions


def key_of(bench: Bench, checkpoint: Checkpoint, plan: ExportPlan, planned: PlannedTarget, sample: str) -> str:
    """Return the key of a target's result.

    Args:
        bench: Formats and tolerance.
        checkpoint: What is exported.
        plan: The plan.
        planned: The target in it.
        sample: Folder of the samples in use; empty: they are drawn.
    """
    format_, options = bench.formats[planned.target.format], planned.target.options
    steps = [step for route in planned.routes for step in reversed(plan.way(route))]
    toolchains = [
        checkpoint.format.toolchain,
        format_.toolchain,
        *(bench.formats[step.format].conversions[step.conversion].toolchain for step in steps),
    ]
    return export_key(
        source_sha256=checkpoint.content_sha256,
        code_sha256=checkpoint.code_digest(
            str(options[option.name]) for option in format_.options if option.code and options.get(option.name)
        ),
        allow_pickle=checkpoint.setup.allow_pickle,
        samples_sha256=combined_digest(file_records(Path(sample))) if sample else "",
        format=planned.target.format,
        options=options,
        routes=[plan.steps[route].path for route in planned.routes],
        environments=[toolchain.python for toolchain in toolchains if toolchain.python is not None],
        tolerance=bench.tolerance,
        tools=tool_versions(),
    )
