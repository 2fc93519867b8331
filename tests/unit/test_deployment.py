"""The files that people deploy with are what their readers accept: Docker, Compose, Kubernetes, pre-commit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry_export.cli import main

ROOT = Path(__file__).parents[2]
DEPLOYMENT = ROOT / "examples" / "deployment"
KUBERNETES = DEPLOYMENT / "kubernetes"
MANIFESTS = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")
SECRET = re.compile("PASSWORD|SECRET|_KEY|OUTBOX_URI|STORE_URI")


def run(tool: str, *arguments: str | Path) -> None:
    """Run a tool of the test environment, which must have no objections."""
    program = shutil.which(tool, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    if program is None:
        pytest.skip(f"needs {tool}: run `make venv`")
    finished = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def manifests() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def containers() -> Iterator[dict[str, Any]]:
    for manifest in manifests():
        if manifest["kind"] == "Deployment":
            yield from manifest["spec"]["template"]["spec"]["containers"]


def test_hadolint_has_no_objection_to_the_dockerfile():
    run("hadolint", DEPLOYMENT / "Dockerfile")


def test_the_compose_file_follows_the_specification():
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOYMENT / "compose.yaml")


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_manifests_follow_the_schemas_of_kubernetes(version):
    run("kubernetes-validate", "--strict", "--kubernetes-version", version, *MANIFESTS)


def test_kustomize_is_given_everything_but_the_example_of_secrets():
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "secrets.example.yaml"]) == [path.name for path in MANIFESTS]


def test_the_pre_commit_files_are_understood():
    run("pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml")
    run("pre-commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml")


def test_secrets_come_by_reference_and_every_reference_leads_to_a_key():
    held = {
        (manifest["metadata"]["name"], key)
        for manifest in manifests()
        if manifest["kind"] == "Secret"
        for key in manifest["stringData"]
    }
    for entry in (entry for container in containers() for entry in container["env"]):
        assert "value" not in entry or not SECRET.search(entry["name"]), entry
        wanted = entry.get("valueFrom", {}).get("secretKeyRef")
        assert wanted is None or wanted.get("optional") or (wanted["name"], wanted["key"]) in held, entry


def test_a_worker_has_time_to_hand_its_job_back():
    (pod,) = (
        manifest["spec"]["template"]["spec"]
        for manifest in manifests()
        if manifest["kind"] == "Deployment" and manifest["metadata"]["name"] == "worker"
    )
    (worker,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] >= grace_in(worker["args"]) + 10
    service = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())["services"]["worker"]
    assert int(service["stop_grace_period"].removesuffix("s")) >= grace_in(service["command"]) + 10


def grace_in(arguments: list[str]) -> int:
    return int(arguments[arguments.index("--grace") + 1])


def test_the_rules_of_containers_and_cluster_are_understood(tmp_path):
    (rules,) = (manifest["data"] for manifest in manifests() if manifest["kind"] == "ConfigMap")
    for name, text in rules.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["check", *map(str, tmp_path.iterdir()), str(DEPLOYMENT / "registry-export.yaml")])
    assert ended.value.code == 0


def test_the_workers_role_is_the_one_of_the_documentation():
    script = (DEPLOYMENT / "worker-role.sh").read_text()
    blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    statements = [part.strip() for block in blocks for part in block.replace("'choose-one'", ":'password'").split(";")]
    assert len(statements) > 4
    assert [statement for statement in statements if statement not in script] == []
