-- Benches: paths that are measured. Rows go an hour after their end; what stays are the records in the audit log.
CREATE TABLE benches (
    id              uuid PRIMARY KEY,
    source          uuid NOT NULL REFERENCES nodes (uid),
    destination     uuid NOT NULL REFERENCES nodes (uid),
    grant_payload   bytea NOT NULL,
    grant_signature bytea NOT NULL CHECK (octet_length(grant_signature) = 64),
    traceparent     text NOT NULL,
    trace_id        text NOT NULL,
    create_time     timestamptz NOT NULL,
    -- Until when the source may begin it, and until when it has to have ended.
    begin_before    timestamptz NOT NULL,
    end_before      timestamptz NOT NULL,
    end_time        timestamptz,
    -- The newest report, as the agent said it; of the end too.
    report          bytea NOT NULL,
    revision        bigint NOT NULL,
    job_revision    bigint NOT NULL
);
CREATE INDEX benches_by_job ON benches (job_revision);
