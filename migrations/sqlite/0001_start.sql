-- The state of admin.flexfs. Ids are UUIDs in lower case (or store ids),
-- times are microseconds since 1970 UTC, flags are names joined by commas.
-- The same tables, columns and checks as in ../postgres.

CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'suspended', 'deleted')),
    created_at INTEGER NOT NULL,
    -- The token that made it; empty for the account made at bootstrap.
    created_by TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX accounts_name ON accounts (name) WHERE state <> 'deleted';
CREATE INDEX accounts_order ON accounts (created_at, id);

CREATE TABLE meta_stores (
    id TEXT PRIMARY KEY,
    address TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'deleted')),
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL
) STRICT;

CREATE TABLE meta_servers (
    id TEXT PRIMARY KEY,
    meta_store TEXT NOT NULL REFERENCES meta_stores (id),
    address TEXT NOT NULL,
    version TEXT NOT NULL,
    acknowledged INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL
) STRICT;
CREATE INDEX meta_servers_store ON meta_servers (meta_store);

CREATE TABLE block_stores (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('dir', 's3', 'gcs', 'azure')),
    location TEXT NOT NULL,
    prefix TEXT NOT NULL,
    region TEXT NOT NULL,
    address TEXT NOT NULL,
    credentials_name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'deleted')),
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL
) STRICT;

CREATE TABLE volumes (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    meta_store TEXT NOT NULL REFERENCES meta_stores (id),
    block_store TEXT NOT NULL REFERENCES block_stores (id),
    block_size INTEGER NOT NULL CHECK (block_size > 0),
    compression TEXT NOT NULL CHECK (compression IN ('lz4', 'zstd', 'none')),
    encryption INTEGER NOT NULL CHECK (encryption IN (0, 1)),
    retention_seconds INTEGER NOT NULL CHECK (retention_seconds >= 0),
    max_blocks INTEGER NOT NULL CHECK (max_blocks >= 0),
    max_inodes INTEGER NOT NULL CHECK (max_inodes >= 0),
    flags TEXT NOT NULL,
    notes TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'retired')),
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX volumes_name ON volumes (account_id, name) WHERE state = 'active';
CREATE INDEX volumes_order ON volumes (account_id, created_at, id);
CREATE INDEX volumes_meta_store ON volumes (meta_store);
CREATE INDEX volumes_block_store ON volumes (block_store);

-- Rows are never removed: an id once used can never be imported again.
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('account', 'volume', 'meta')),
    account_id TEXT NOT NULL REFERENCES accounts (id),
    -- Exactly what the kind has.
    volume_id TEXT REFERENCES volumes (id),
    meta_store TEXT REFERENCES meta_stores (id),
    role TEXT,
    mount_path TEXT,
    rights TEXT CHECK (rights IN ('rw', 'append', 'ro')),
    flags TEXT NOT NULL,
    uid INTEGER,
    gid INTEGER,
    -- Ids joined by commas; empty = all of the account.
    volumes TEXT NOT NULL,
    cidrs TEXT NOT NULL,
    notes TEXT NOT NULL,
    last4 TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    not_before INTEGER,
    revoked_at INTEGER,
    disabled_at INTEGER,
    last_used_at INTEGER,
    deleted_at INTEGER,
    revoke_reason TEXT NOT NULL,
    rotated_from TEXT,
    created_by TEXT NOT NULL,
    CHECK ((kind = 'account') = (role IS NOT NULL)),
    CHECK ((kind = 'volume') = (volume_id IS NOT NULL AND mount_path IS NOT NULL
                                AND rights IS NOT NULL)),
    CHECK ((kind = 'meta') = (meta_store IS NOT NULL))
) STRICT;
CREATE INDEX tokens_order ON tokens (account_id, kind, created_at, id);
CREATE INDEX tokens_volume ON tokens (volume_id) WHERE volume_id IS NOT NULL;
CREATE INDEX tokens_meta_store ON tokens (meta_store) WHERE meta_store IS NOT NULL;

-- What is stored instead of the secrets.
CREATE TABLE token_secrets (
    id TEXT PRIMARY KEY,
    token_id TEXT NOT NULL REFERENCES tokens (id),
    tag BLOB NOT NULL CHECK (length(tag) = 32),
    pepper_id TEXT NOT NULL,
    phc TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    retired_at INTEGER
) STRICT;
CREATE INDEX token_secrets_token ON token_secrets (token_id);

-- The change feed: dense revisions, taken last in each transaction from the
-- one row of feed_head.
CREATE TABLE feed_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    feed_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    -- Revisions up to this one are no longer kept.
    floor INTEGER NOT NULL
) STRICT;

CREATE TABLE changes (
    revision INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    account_id TEXT NOT NULL,
    volume_id TEXT NOT NULL,
    token_id TEXT NOT NULL,
    meta_store TEXT NOT NULL,
    block_store TEXT NOT NULL
) STRICT;

-- How many sessions a metadata server cut for a token.
CREATE TABLE session_cuts (
    server_id TEXT NOT NULL REFERENCES meta_servers (id),
    token_id TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    PRIMARY KEY (server_id, token_id)
) STRICT, WITHOUT ROWID;

-- Append-only, hash-chained: hash = SHA-256 over prev_hash and all fields.
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    -- Token id, or the local command (bootstrap, recover).
    who TEXT NOT NULL,
    account_id TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    source TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    revision INTEGER NOT NULL,
    prev_hash BLOB NOT NULL CHECK (length(prev_hash) = 32),
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
