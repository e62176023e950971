-- Configurations and their way to the agents, transfers, and which server holds which agent's session.
-- Watched rows carry `revision`, taken from the one locked counter in the transaction that changes them.

-- The generation of what is desired; its lock makes all writes of configurations one chain. Starts anew in each epoch.
CREATE TABLE desired_state (
    single_row boolean PRIMARY KEY DEFAULT true CHECK (single_row),
    epoch      bigint NOT NULL,
    generation bigint NOT NULL
);
INSERT INTO desired_state (epoch, generation) VALUES (1, 0);

-- ---------------------------------------------------------------------------------------------------------------------
-- Configurations: `fleet` and `node.NAME`. A deleted one stays as a row, so that its revisions' numbers go on.
CREATE TABLE configs (
    name        text        PRIMARY KEY CHECK (name = 'fleet' OR name LIKE 'node.%'),
    live        boolean     NOT NULL,
    revision    bigint      NOT NULL CHECK (revision > 0),
    epoch       bigint      NOT NULL,
    generation  bigint      NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
);

CREATE TABLE config_revisions (
    config      text        NOT NULL REFERENCES configs (name),
    revision    bigint      NOT NULL CHECK (revision > 0),
    document    text        NOT NULL,
    author      text        NOT NULL,
    message     text        NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (config, revision)
);

-- One write's way to the agents. `newest`: of its configuration; only that one still takes answers.
CREATE TABLE rollouts (
    id          uuid        PRIMARY KEY,
    config      text        NOT NULL REFERENCES configs (name),
    revision    bigint      NOT NULL,
    deletion    boolean     NOT NULL,
    epoch       bigint      NOT NULL,
    generation  bigint      NOT NULL,
    state       text        NOT NULL CHECK (state IN ('running', 'succeeded', 'failed', 'superseded')),
    newest      boolean     NOT NULL,
    create_time timestamptz NOT NULL,
    end_time    timestamptz,
    UNIQUE (epoch, generation),
    CHECK ((state = 'running') = (end_time IS NULL))
);
CREATE UNIQUE INDEX rollouts_newest ON rollouts (config) WHERE newest;
CREATE INDEX rollouts_of_a_revision ON rollouts (config, revision);

CREATE TABLE rollout_targets (
    rollout     uuid        NOT NULL REFERENCES rollouts (id),
    node        uuid        NOT NULL REFERENCES nodes (uid),
    answer      text        NOT NULL CHECK (answer IN ('offline', 'pending', 'applied', 'rejected')),
    errors      text[]      NOT NULL DEFAULT '{}',
    answer_time timestamptz,
    PRIMARY KEY (rollout, node)
);
CREATE INDEX rollout_targets_of_a_node ON rollout_targets (node);

-- ---------------------------------------------------------------------------------------------------------------------
-- Servers that run over this database. One whose heartbeat is old is gone, and its sessions with it.
CREATE TABLE servers (
    id             uuid        PRIMARY KEY,
    version        text        NOT NULL,
    ring_address   text,
    start_time     timestamptz NOT NULL,
    heartbeat_time timestamptz NOT NULL
);

-- Who is connected where: one session a node, a newer one replaces the older.
CREATE TABLE node_sessions (
    node           uuid        PRIMARY KEY REFERENCES nodes (uid),
    session        uuid        NOT NULL UNIQUE,
    server         uuid        NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    remote_address text        NOT NULL,
    connect_time   timestamptz NOT NULL
);
CREATE INDEX node_sessions_of_a_server ON node_sessions (server);

-- What a node said of its own layer of configuration when it last connected, and which keys it says have no effect there.
CREATE TABLE node_layers (
    node              uuid   PRIMARY KEY REFERENCES nodes (uid),
    host_layer        text   NOT NULL,
    host_layer_origin text   NOT NULL,
    not_in_force      text[] NOT NULL DEFAULT '{}',
    -- Where this server saw the node, `IP:PORT` for QUIC.
    observed_addresses text[] NOT NULL DEFAULT '{}'
);

-- The newest record that a node sent, as it was put into the DHT.
CREATE TABLE node_records (
    node        uuid        PRIMARY KEY REFERENCES nodes (uid),
    public_key  bytea       NOT NULL CHECK (length(public_key) = 32),
    seq         bigint      NOT NULL,
    value       bytea       NOT NULL,
    signature   bytea       NOT NULL CHECK (length(signature) = 64),
    update_time timestamptz NOT NULL
);

-- ---------------------------------------------------------------------------------------------------------------------
-- Transfers. `job_revision` moves only when what the ends should do changes; `revision` with every change.
CREATE TABLE transfers (
    id                     uuid        PRIMARY KEY,
    source                 uuid        NOT NULL REFERENCES nodes (uid),
    destination            uuid        NOT NULL REFERENCES nodes (uid),
    source_paths           text[]      NOT NULL,
    destination_path       text        NOT NULL,
    delete_extraneous      boolean     NOT NULL,
    exclude                text[]      NOT NULL,
    checksum               boolean     NOT NULL,
    dry_run                boolean     NOT NULL,
    max_bytes              bigint      NOT NULL,
    state                  text        NOT NULL CHECK (state IN
        ('pending', 'running', 'waiting', 'succeeded', 'succeeded_in_part', 'failed', 'cancelled')),
    error_reason           text        NOT NULL DEFAULT '',
    error_message          text        NOT NULL DEFAULT '',
    created_by             text        NOT NULL,
    trace_id               text        NOT NULL,
    traceparent            text        NOT NULL,
    grant_payload          bytea       NOT NULL,
    grant_signature        bytea       NOT NULL CHECK (length(grant_signature) = 64),
    grant_expire_time      timestamptz NOT NULL,
    create_time            timestamptz NOT NULL,
    start_time             timestamptz,
    end_time               timestamptz,
    update_time            timestamptz NOT NULL,
    progress_time          timestamptz,
    receiver_progress_time timestamptz,
    create_revision        bigint      NOT NULL,
    job_revision           bigint      NOT NULL,
    revision               bigint      NOT NULL,
    CHECK ((end_time IS NOT NULL) = (state IN ('succeeded', 'succeeded_in_part', 'failed', 'cancelled')))
);
CREATE INDEX transfers_by_revision ON transfers (revision);
CREATE INDEX transfers_by_job_revision ON transfers (job_revision);
CREATE INDEX transfers_newest_first ON transfers (create_time DESC, id DESC);
CREATE INDEX transfers_not_ended ON transfers (id) WHERE end_time IS NULL;
CREATE INDEX transfers_by_source ON transfers (source);
CREATE INDEX transfers_by_destination ON transfers (destination);

-- What each end last reported; an end that has ended is kept for good.
CREATE TABLE transfer_ends (
    transfer    uuid        NOT NULL REFERENCES transfers (id),
    role        text        NOT NULL CHECK (role IN ('sender', 'receiver')),
    ended       boolean     NOT NULL,
    report      bytea       NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (transfer, role)
);
