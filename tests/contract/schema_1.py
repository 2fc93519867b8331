"""A ledger as it was before alembic kept its version, with rows in every table. Frozen: this lies on people's disks."""

from __future__ import annotations

_DDL = """
CREATE TABLE registry_export_cursors (name VARCHAR(128) NOT NULL, value_ms BIGINT NOT NULL, PRIMARY KEY (name));
CREATE TABLE registry_export_jobs (
    id {job_id},
    event VARCHAR(32),
    workspace VARCHAR(63),
    model_name VARCHAR(256) NOT NULL,
    version VARCHAR(32) NOT NULL,
    "trigger" VARCHAR(320) NOT NULL,
    targets TEXT NOT NULL,
    state VARCHAR(16) NOT NULL,
    attempt INTEGER NOT NULL,
    status VARCHAR(16),
    error TEXT NOT NULL,
    run_id VARCHAR(64) NOT NULL,
    previous_status VARCHAR(64),
    previous VARCHAR(32),
    puts_back {number},
    reversion_due_at_ms BIGINT,
    worker VARCHAR(256) NOT NULL,
    lease VARCHAR(32) NOT NULL,
    lease_expires_at_ms BIGINT,
    cancel_requested BOOLEAN NOT NULL,
    running_version VARCHAR(360),
    running_checkpoint VARCHAR(360),
    available_at_ms BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    UNIQUE (event),
    UNIQUE (running_version),
    UNIQUE (running_checkpoint)
);
CREATE INDEX registry_export_jobs_by_state ON registry_export_jobs (state, available_at_ms);
CREATE INDEX registry_export_jobs_by_version ON registry_export_jobs (model_name, version);
CREATE TABLE registry_export_known_exports (
    id {export_id},
    "key" VARCHAR(64) NOT NULL,
    workspace VARCHAR(63) NOT NULL,
    model_name VARCHAR(256) NOT NULL,
    version VARCHAR(32) NOT NULL,
    variant VARCHAR(256) NOT NULL,
    manifest_sha256 VARCHAR(64) NOT NULL,
    result_sha256 VARCHAR(64) NOT NULL,
    used_at_ms BIGINT NOT NULL,
    UNIQUE (workspace, model_name, version, variant)
);
CREATE INDEX ix_registry_export_known_exports_key ON registry_export_known_exports ("key");
CREATE INDEX ix_registry_export_known_exports_used_at_ms ON registry_export_known_exports (used_at_ms);
CREATE TABLE registry_export_own_promotions (
    job_id {number} NOT NULL,
    workspace VARCHAR(63) NOT NULL,
    model_name VARCHAR(256) NOT NULL,
    version VARCHAR(32) NOT NULL,
    "trigger" VARCHAR(300) NOT NULL,
    seen BOOLEAN NOT NULL,
    PRIMARY KEY (job_id)
);
CREATE TABLE registry_export_promotions (
    workspace VARCHAR(63) NOT NULL,
    model_name VARCHAR(256) NOT NULL,
    promotion VARCHAR(300) NOT NULL,
    version VARCHAR(32) NOT NULL,
    missing VARCHAR(64) NOT NULL,
    checked_at_ms BIGINT NOT NULL,
    PRIMARY KEY (workspace, model_name, promotion, version)
);
CREATE INDEX registry_export_promotions_by_check ON registry_export_promotions (workspace, checked_at_ms);
CREATE TABLE registry_export_schema (version INTEGER NOT NULL, PRIMARY KEY (version));
CREATE TABLE registry_export_step_costs (
    work VARCHAR(255) NOT NULL,
    size_class INTEGER NOT NULL,
    seconds FLOAT NOT NULL,
    peak_bytes BIGINT NOT NULL,
    times INTEGER NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    PRIMARY KEY (work, size_class)
);
"""

_JOB = (
    'INSERT INTO registry_export_jobs (event, workspace, model_name, version, "trigger", targets, state, attempt, '
    "status, error, run_id, previous_status, previous, puts_back, reversion_due_at_ms, worker, lease, "
    "lease_expires_at_ms, cancel_requested, running_version, running_checkpoint, available_at_ms, created_at_ms, "
    "updated_at_ms) VALUES "
)

_ROWS = f"""
INSERT INTO registry_export_schema (version) VALUES (1);
{_JOB}('e1', '', 'digits', '1', 'stage:Staging', '', 'done', 1, 'verified', '', 'run', NULL, 'None', NULL, NULL,
    'host:1', '', NULL, FALSE, NULL, NULL, 1000, 1000, 2000);
{_JOB}('e2', '', 'digits', '2', 'alias:champion', '', 'queued', 0, NULL, '', '', 'verified', '', NULL, NULL,
    '', '', NULL, FALSE, NULL, NULL, 1000, 1000, 1000);
{_JOB}(NULL, 'team', 'digits', '3', 'manual', 'onnx', 'running', 4, NULL, 'Down.', '', NULL, NULL, 1, 5000,
    'host:2', 'lease', 9000000000000, TRUE, 'team|digits/3', 'team|m-3', 1000, 1000, 3000);
{_JOB}('gone', '', 'digits', '4', 'manual', '', 'queued', 0, NULL, '', '', NULL, NULL, NULL, NULL,
    '', '', NULL, FALSE, NULL, NULL, 1000, 1000, 1000);
DELETE FROM registry_export_jobs WHERE event = 'gone';
INSERT INTO registry_export_cursors VALUES ('sweep|', 42);
INSERT INTO registry_export_known_exports ("key", workspace, model_name, version, variant, manifest_sha256,
    result_sha256, used_at_ms) VALUES ('k', '', 'digits', '1', 'onnx', 'm', 'r', 7);
INSERT INTO registry_export_own_promotions VALUES (1, '', 'digits', '1', 'stage:Staging', FALSE);
INSERT INTO registry_export_promotions VALUES ('', 'digits', 'stage:Staging', '1', '', 7);
INSERT INTO registry_export_step_costs VALUES ('convert', 20, 1.5, 1000, 3, 7);
"""

_TYPES = {
    "sqlite": {
        "job_id": "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT",
        "export_id": "INTEGER NOT NULL PRIMARY KEY",
        "number": "INTEGER",
    },
    "postgresql": {
        "job_id": "BIGSERIAL NOT NULL PRIMARY KEY",
        "export_id": "BIGSERIAL NOT NULL PRIMARY KEY",
        "number": "BIGINT",
    },
}


def create(database):
    """Create the tables and their rows; the highest job number, 4, was given and its job deleted."""
    with database.write() as connection:
        for statement in (_DDL.format(**_TYPES[database.dialect]) + _ROWS).split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
