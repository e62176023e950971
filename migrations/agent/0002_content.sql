-- What the content store and its baselines know. Lost, it fills again: an object that no row names is removed, a file that no row knows is read.
-- Times are seconds since the Unix epoch, those that end in _ns and _ms nanoseconds and milliseconds; digests are lower-case hexadecimal.

-- Which file of a root has which digest, as this host published it: as long as the file is the same by what the file system says of it, nobody reads it for that.
ALTER TABLE baselines ADD COLUMN device   INTEGER NOT NULL DEFAULT 0;
ALTER TABLE baselines ADD COLUMN inode    INTEGER NOT NULL DEFAULT 0;
ALTER TABLE baselines ADD COLUMN mtime_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE baselines ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE baselines ADD COLUMN noted_ms INTEGER NOT NULL DEFAULT 0;
CREATE INDEX baselines_digest ON baselines (root, digest);
CREATE INDEX baselines_last_used_at ON baselines (last_used_at);

-- Versions that a peer acknowledged, of files below a root of its own; each is an object of the content store.
CREATE TABLE peer_baselines (
    peer            TEXT    NOT NULL,
    root            TEXT    NOT NULL,
    path            BLOB    NOT NULL,
    digest          TEXT    NOT NULL,
    size            INTEGER NOT NULL,
    chain           INTEGER NOT NULL,
    poor            INTEGER NOT NULL,
    acknowledged_ms INTEGER NOT NULL,
    PRIMARY KEY (peer, root, path, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX peer_baselines_digest ON peer_baselines (digest);
CREATE INDEX peer_baselines_acknowledged_ms ON peer_baselines (acknowledged_ms);

-- What else needs an object of the content store.
CREATE TABLE content_references (
    name       TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (name, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX content_references_digest ON content_references (digest);
