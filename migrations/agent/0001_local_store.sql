-- The agent's local store. Nothing in it is the only copy of what matters: a file that is lost is made anew and fills again.
-- Times are seconds since the Unix epoch; keys and ids are lower-case hexadecimal, so that they can be queried by hand.

-- Peers that were met.
CREATE TABLE known_peers (
    peer_id    TEXT    NOT NULL PRIMARY KEY,
    public_key TEXT    NOT NULL,
    topic      TEXT    NOT NULL,
    last_seen  INTEGER NOT NULL
) STRICT;
CREATE INDEX known_peers_last_seen ON known_peers (last_seen);

-- The newest signed record of each peer, as BEP 44 has it; its seq is the least that is accepted of that peer.
CREATE TABLE metadata_cache (
    peer_id    TEXT    NOT NULL PRIMARY KEY,
    public_key TEXT    NOT NULL,
    seq        INTEGER NOT NULL,
    value      BLOB    NOT NULL,
    signature  BLOB    NOT NULL,
    cached_at  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

-- The same, readable.
CREATE TABLE peer_metadata (
    node_id         TEXT    NOT NULL PRIMARY KEY,
    node_type       TEXT    NOT NULL,
    using_relay     INTEGER NOT NULL,
    connected_relay TEXT,
    name            TEXT,
    addresses       TEXT    NOT NULL,
    seq             INTEGER NOT NULL,
    issued_at       INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT;

-- The seq that was last given to a record of our own.
CREATE TABLE own_records (
    name TEXT    NOT NULL PRIMARY KEY,
    seq  INTEGER NOT NULL
) STRICT;

-- Transfers that this agent took part in.
CREATE TABLE transfers (
    transfer_id TEXT    NOT NULL,
    role        TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    peer_id     TEXT    NOT NULL,
    path        TEXT    NOT NULL,
    bytes_total INTEGER NOT NULL,
    bytes_done  INTEGER NOT NULL,
    message     TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (transfer_id, role)
) STRICT;
CREATE INDEX transfers_updated_at ON transfers (updated_at);

-- Versions of files that deltas may refer to.
CREATE TABLE baselines (
    root         TEXT    NOT NULL,
    path         BLOB    NOT NULL,
    digest       TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    chain        INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    PRIMARY KEY (root, path)
) STRICT;

-- People and bots of the messaging part.
CREATE TABLE user_profiles (
    user_id      TEXT    NOT NULL PRIMARY KEY,
    username     TEXT    NOT NULL,
    display_name TEXT    NOT NULL,
    public_key   TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;
