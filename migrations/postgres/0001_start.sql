-- The state of admin.flexfs. Ids are UUIDs in lower case (or store ids),
-- times are microseconds since 1970 UTC, flags are names joined by commas.
-- The same tables, columns and checks as in ../sqlite; texts compare by byte
-- (COLLATE "C"), because pages and prefixes of ids depend on the order.

CREATE TABLE accounts (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    email TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('active', 'suspended', 'deleted')),
    created_at BIGINT NOT NULL,
    -- The token that made it; empty for the account made at bootstrap.
    created_by TEXT COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX accounts_name ON accounts (name) WHERE state <> 'deleted';
CREATE INDEX accounts_order ON accounts (created_at, id);

CREATE TABLE meta_stores (
    id TEXT COLLATE "C" PRIMARY KEY,
    address TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('active', 'deleted')),
    created_at BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL
);

CREATE TABLE meta_servers (
    id TEXT COLLATE "C" PRIMARY KEY,
    meta_store TEXT COLLATE "C" NOT NULL REFERENCES meta_stores (id),
    address TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    acknowledged BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL
);
CREATE INDEX meta_servers_store ON meta_servers (meta_store);

CREATE TABLE block_stores (
    id TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('dir', 's3', 'gcs', 'azure')),
    location TEXT COLLATE "C" NOT NULL,
    prefix TEXT COLLATE "C" NOT NULL,
    region TEXT COLLATE "C" NOT NULL,
    address TEXT COLLATE "C" NOT NULL,
    credentials_name TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('active', 'deleted')),
    created_at BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL
);

CREATE TABLE volumes (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    account_id TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    meta_store TEXT COLLATE "C" NOT NULL REFERENCES meta_stores (id),
    block_store TEXT COLLATE "C" NOT NULL REFERENCES block_stores (id),
    block_size BIGINT NOT NULL CHECK (block_size > 0),
    compression TEXT COLLATE "C" NOT NULL CHECK (compression IN ('lz4', 'zstd', 'none')),
    encryption BIGINT NOT NULL CHECK (encryption IN (0, 1)),
    retention_seconds BIGINT NOT NULL CHECK (retention_seconds >= 0),
    max_blocks BIGINT NOT NULL CHECK (max_blocks >= 0),
    max_inodes BIGINT NOT NULL CHECK (max_inodes >= 0),
    flags TEXT COLLATE "C" NOT NULL,
    notes TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('active', 'retired')),
    created_at BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX volumes_name ON volumes (account_id, name) WHERE state = 'active';
CREATE INDEX volumes_order ON volumes (account_id, created_at, id);
CREATE INDEX volumes_meta_store ON volumes (meta_store);
CREATE INDEX volumes_block_store ON volumes (block_store);

-- Rows are never removed: an id once used can never be imported again.
CREATE TABLE tokens (
    id TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('account', 'volume', 'meta')),
    account_id TEXT COLLATE "C" NOT NULL REFERENCES accounts (id),
    -- Exactly what the kind has.
    volume_id TEXT COLLATE "C" REFERENCES volumes (id),
    meta_store TEXT COLLATE "C" REFERENCES meta_stores (id),
    role TEXT COLLATE "C",
    mount_path TEXT COLLATE "C",
    rights TEXT COLLATE "C" CHECK (rights IN ('rw', 'append', 'ro')),
    flags TEXT COLLATE "C" NOT NULL,
    uid BIGINT,
    gid BIGINT,
    -- Ids joined by commas; empty = all of the account.
    volumes TEXT COLLATE "C" NOT NULL,
    cidrs TEXT COLLATE "C" NOT NULL,
    notes TEXT COLLATE "C" NOT NULL,
    last4 TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    not_before BIGINT,
    revoked_at BIGINT,
    disabled_at BIGINT,
    last_used_at BIGINT,
    deleted_at BIGINT,
    revoke_reason TEXT COLLATE "C" NOT NULL,
    rotated_from TEXT COLLATE "C",
    created_by TEXT COLLATE "C" NOT NULL,
    CHECK ((kind = 'account') = (role IS NOT NULL)),
    CHECK ((kind = 'volume') = (volume_id IS NOT NULL AND mount_path IS NOT NULL
                                AND rights IS NOT NULL)),
    CHECK ((kind = 'meta') = (meta_store IS NOT NULL))
);
CREATE INDEX tokens_order ON tokens (account_id, kind, created_at, id);
CREATE INDEX tokens_volume ON tokens (volume_id) WHERE volume_id IS NOT NULL;
CREATE INDEX tokens_meta_store ON tokens (meta_store) WHERE meta_store IS NOT NULL;

-- What is stored instead of the secrets.
CREATE TABLE token_secrets (
    id TEXT COLLATE "C" PRIMARY KEY,
    token_id TEXT COLLATE "C" NOT NULL REFERENCES tokens (id),
    tag BYTEA NOT NULL CHECK (length(tag) = 32),
    pepper_id TEXT COLLATE "C" NOT NULL,
    phc TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    retired_at BIGINT
);
CREATE INDEX token_secrets_token ON token_secrets (token_id);

-- The change feed: dense revisions, taken last in each transaction from the
-- one row of feed_head.
CREATE TABLE feed_head (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    feed_id TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    -- Revisions up to this one are no longer kept.
    floor BIGINT NOT NULL
);

CREATE TABLE changes (
    revision BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    account_id TEXT COLLATE "C" NOT NULL,
    volume_id TEXT COLLATE "C" NOT NULL,
    token_id TEXT COLLATE "C" NOT NULL,
    meta_store TEXT COLLATE "C" NOT NULL,
    block_store TEXT COLLATE "C" NOT NULL
);

-- How many sessions a metadata server cut for a token.
CREATE TABLE session_cuts (
    server_id TEXT COLLATE "C" NOT NULL REFERENCES meta_servers (id),
    token_id TEXT COLLATE "C" NOT NULL,
    sessions BIGINT NOT NULL,
    PRIMARY KEY (server_id, token_id)
);

-- Append-only, hash-chained: hash = SHA-256 over prev_hash and all fields.
CREATE TABLE audit (
    seq BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    -- Token id, or the local command (bootstrap, recover).
    who TEXT COLLATE "C" NOT NULL,
    account_id TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    target TEXT COLLATE "C" NOT NULL,
    source TEXT COLLATE "C" NOT NULL,
    outcome TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    prev_hash BYTEA NOT NULL CHECK (length(prev_hash) = 32),
    hash BYTEA NOT NULL CHECK (length(hash) = 32)
);
CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END $$;
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();
