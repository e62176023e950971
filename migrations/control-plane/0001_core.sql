-- The core: which programs may run on this schema, the revision counter, the fleet and its keys, the audit log, requests that were
-- answered. PostgreSQL 13 or newer. Forward only: a migration expands, the contraction comes a version later (D29).

-- The least version of the program that can work with this schema.
CREATE TABLE program (
    single_row boolean PRIMARY KEY DEFAULT true CHECK (single_row),
    least_version integer[] NOT NULL CHECK (array_length(least_version, 1) = 3)
);
INSERT INTO program (least_version) VALUES ('{0,1,0}');

-- One locked row, never a sequence: a reader that has seen revision R has seen every change up to R.
CREATE TABLE revision_counter (
    single_row boolean PRIMARY KEY DEFAULT true CHECK (single_row),
    value bigint NOT NULL
);
INSERT INTO revision_counter (value) VALUES (0);

-- The fleet: its trust domain, and how often it was restored.
CREATE TABLE fleet (
    single_row boolean PRIMARY KEY DEFAULT true CHECK (single_row),
    fleet_id    text NOT NULL,
    epoch       bigint NOT NULL CHECK (epoch > 0),
    create_time timestamptz NOT NULL
);

-- Keys, sealed with DIR/seal.key (D7): what stands here is of no use without that file.
CREATE TABLE keys (
    name        text PRIMARY KEY,
    sealed      bytea NOT NULL,
    public_part bytea NOT NULL,
    create_time timestamptz NOT NULL
);

-- ---------------------------------------------------------------------------------------------------------------------
-- The audit log: each row a leaf of an RFC 6962 tree.
CREATE TABLE audit_events (
    sequence  bigint PRIMARY KEY CHECK (sequence >= 0),
    time      timestamptz NOT NULL,
    actor     text NOT NULL,
    action    text NOT NULL,
    resource  text NOT NULL,
    outcome   text NOT NULL CHECK (outcome IN ('ok', 'refused')),
    detail    jsonb NOT NULL,
    trace_id  text NOT NULL,
    leaf      bytea NOT NULL,
    leaf_hash bytea NOT NULL CHECK (length(leaf_hash) = 32)
);
CREATE INDEX audit_events_actor    ON audit_events (actor, sequence);
CREATE INDEX audit_events_action   ON audit_events (action text_pattern_ops, sequence);
CREATE INDEX audit_events_resource ON audit_events (resource, sequence);

-- Hashes of the full subtrees, of which every proof is made. Level 0 are the leaves.
CREATE TABLE audit_nodes (
    level smallint NOT NULL,
    index bigint NOT NULL,
    hash  bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, index)
);

-- The head. Its lock is the last that a transaction takes, and makes all appends one chain (D14).
CREATE TABLE audit_head (
    single_row boolean PRIMARY KEY DEFAULT true CHECK (single_row),
    origin     text NOT NULL,
    verifier_key text NOT NULL,
    size       bigint NOT NULL CHECK (size >= 0),
    frontier   bytea NOT NULL,
    root       bytea NOT NULL CHECK (length(root) = 32),
    checkpoint text NOT NULL,
    time       timestamptz NOT NULL
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_nodes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- ---------------------------------------------------------------------------------------------------------------------
-- Requests that were answered, so that a repeat is harmless. Kept for a week.
CREATE TABLE requests (
    caller      text NOT NULL,
    method      text NOT NULL,
    request_id  uuid NOT NULL,
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
    resource    text NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (caller, method, request_id)
);
CREATE INDEX requests_create_time ON requests (create_time);
