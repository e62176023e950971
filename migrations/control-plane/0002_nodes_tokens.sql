-- Who is in the fleet, and by which tokens one gets in or calls the API.
-- Watched rows carry `revision`, taken from the one locked counter in the transaction that changes them.

-- ---------------------------------------------------------------------------------------------------------------------
-- Operators' tokens: of a secret only its SHA-256 is here (256 random bits need no slow hash).
CREATE TABLE operator_tokens (
    id           uuid        PRIMARY KEY,
    secret_hash  bytea       NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    display_name text        NOT NULL,
    role         text        NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    created_by   text        NOT NULL,
    create_time  timestamptz NOT NULL,
    expire_time  timestamptz,
    revoke_time  timestamptz
);
CREATE INDEX operator_tokens_newest_first ON operator_tokens (create_time DESC, id DESC);

-- Join tokens. Redeemed by one conditional UPDATE, so that no race spends a use twice.
CREATE TABLE join_tokens (
    id          uuid        PRIMARY KEY,
    secret_hash bytea       NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    max_uses    integer     NOT NULL CHECK (max_uses > 0),
    used_count  integer     NOT NULL DEFAULT 0 CHECK (used_count BETWEEN 0 AND max_uses),
    node_labels jsonb       NOT NULL,
    relay       boolean     NOT NULL,
    node_name   text        CHECK (node_name IS NULL OR max_uses = 1),
    created_by  text        NOT NULL,
    create_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    revoke_time timestamptz
);
CREATE INDEX join_tokens_newest_first ON join_tokens (create_time DESC, id DESC);

-- ---------------------------------------------------------------------------------------------------------------------
-- Nodes. A node is its uid; its key may be replaced, its row stays when it is deleted (revoked).
CREATE TABLE nodes (
    uid                     uuid        PRIMARY KEY,
    name                    text        NOT NULL,
    -- A deleted node's name stays reserved until a token made for that name gives it to another.
    holds_name              boolean     NOT NULL DEFAULT true,
    public_key              bytea       NOT NULL UNIQUE CHECK (length(public_key) = 32),
    node_id                 bytea       NOT NULL UNIQUE CHECK (length(node_id) = 20),
    labels                  jsonb       NOT NULL,
    relay                   boolean     NOT NULL,
    -- Changes with every change by an operator: the etag.
    version                 bigint      NOT NULL,
    certificate             bytea       NOT NULL,
    certificate_expire_time timestamptz NOT NULL,
    create_time             timestamptz NOT NULL,
    update_time             timestamptz NOT NULL,
    revoke_time             timestamptz,
    -- What is observed; not audited. `facts`, `applied` and `components` are messages as the agent sent them, once checked.
    state                   text        NOT NULL CHECK (state IN ('ready', 'degraded', 'offline', 'revoked')),
    state_reason            text        NOT NULL DEFAULT '',
    connected               boolean     NOT NULL DEFAULT false,
    facts                   bytea       NOT NULL,
    applied                 bytea       NOT NULL DEFAULT '',
    components              bytea       NOT NULL DEFAULT '',
    clock_skew_ms           bigint      NOT NULL DEFAULT 0,
    last_seen_time          timestamptz,
    -- Of the newest change of any kind, and of the first.
    revision                bigint      NOT NULL,
    create_revision         bigint      NOT NULL,
    -- The signed roster entry; its sequence is the revision at which it changed.
    roster_epoch            bigint      NOT NULL,
    roster_sequence         bigint      NOT NULL,
    roster_payload          bytea       NOT NULL,
    roster_signature        bytea       NOT NULL CHECK (length(roster_signature) = 64),
    CHECK ((revoke_time IS NOT NULL) = (state = 'revoked'))
);
CREATE UNIQUE INDEX nodes_name ON nodes (name) WHERE holds_name;
CREATE INDEX nodes_by_name ON nodes (name, uid);
-- Not unique indexes, though the counter makes them so: a change of a column with one locks out foreign keys to the row.
CREATE INDEX nodes_by_revision ON nodes (revision);
CREATE INDEX nodes_by_roster_sequence ON nodes (roster_sequence);
CREATE INDEX nodes_by_label ON nodes USING gin (labels jsonb_path_ops);

-- Which key joined by which token: the same token with the same key gives the same answer again.
CREATE TABLE enrolments (
    token       uuid        NOT NULL REFERENCES join_tokens (id),
    public_key  bytea       NOT NULL CHECK (length(public_key) = 32),
    node        uuid        NOT NULL REFERENCES nodes (uid),
    create_time timestamptz NOT NULL,
    PRIMARY KEY (token, public_key)
);
CREATE INDEX enrolments_by_key ON enrolments (public_key);
