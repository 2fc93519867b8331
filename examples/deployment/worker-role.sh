#!/bin/sh
# Runs once, when the database is made: a role for the worker that sees nothing of MLflow's own tables, as
# docs/operations.md#rights says. The outbox belongs to the role that MLflow connects with.
set -eu
psql --set ON_ERROR_STOP=1 --set "password=$WORKER_DB_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE registry_export LOGIN PASSWORD :'password';
GRANT CREATE ON SCHEMA public TO registry_export;
CREATE TABLE registry_export_outbox (
    id BIGSERIAL PRIMARY KEY,
    event VARCHAR(32) NOT NULL UNIQUE,
    workspace VARCHAR(63),
    model_name VARCHAR(256) NOT NULL,
    version VARCHAR(32) NOT NULL,
    trigger VARCHAR(300) NOT NULL,
    previous_status VARCHAR(64),
    previous VARCHAR(32),
    details TEXT,
    created_at_ms BIGINT NOT NULL
);
GRANT SELECT, DELETE ON registry_export_outbox TO registry_export;
SQL
