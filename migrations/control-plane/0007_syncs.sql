-- Standing syncs: desired state, with the standing grant that their ends run by, and what the sender last said of its runs.
CREATE TABLE syncs (
    id                uuid        PRIMARY KEY,
    name              text        NOT NULL,
    source            uuid        NOT NULL REFERENCES nodes (uid),
    destination       uuid        NOT NULL REFERENCES nodes (uid),
    source_path       text        NOT NULL,
    destination_path  text        NOT NULL,
    every_ms          bigint      NOT NULL CHECK (every_ms >= 1000),
    exclude           text[]      NOT NULL,
    checksum          boolean     NOT NULL,
    -- Of the standing grant: it is renewed under the next serial number.
    grant_payload     bytea       NOT NULL,
    grant_signature   bytea       NOT NULL CHECK (octet_length(grant_signature) = 64),
    grant_epoch       bigint      NOT NULL,
    grant_serial      bigint      NOT NULL CHECK (grant_serial > 0),
    grant_expire_time timestamptz NOT NULL,
    -- Orders to replace what others changed at the destination, and runs that were asked for beside those that are due.
    overwrite_order   bigint      NOT NULL,
    run_request       bigint      NOT NULL,
    pause_time        timestamptz,
    paused_by         text        NOT NULL DEFAULT '',
    pause_reason      text        NOT NULL DEFAULT '',
    delete_time       timestamptz,
    -- The newest report, as the sender said it, and the newest run whose end stands in the audit log.
    status            bytea       NOT NULL,
    status_time       timestamptz,
    audited_run       bigint      NOT NULL,
    version           bigint      NOT NULL CHECK (version > 0),
    created_by        text        NOT NULL,
    create_time       timestamptz NOT NULL,
    update_time       timestamptz NOT NULL,
    create_revision   bigint      NOT NULL,
    job_revision      bigint      NOT NULL,
    revision          bigint      NOT NULL
);
CREATE UNIQUE INDEX syncs_by_name ON syncs (name) WHERE delete_time IS NULL;
CREATE INDEX syncs_by_revision ON syncs (revision);
CREATE INDEX syncs_by_job ON syncs (job_revision);
CREATE INDEX syncs_by_source ON syncs (source);
CREATE INDEX syncs_by_destination ON syncs (destination);
