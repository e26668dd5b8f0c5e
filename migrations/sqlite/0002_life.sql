-- The life of a token: several secrets, who uses them, idle ends, claim codes,
-- live sessions, age policies, request ids. Empty texts and zeros mean none.

-- Seconds; secrets older than this are reported.
ALTER TABLE accounts ADD COLUMN max_token_age INTEGER NOT NULL DEFAULT 0;
-- How many rows of the feed are its own, and the revision of the last: what a
-- tenant is told instead of revisions, which count everybody's changes.
ALTER TABLE accounts ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN last_change INTEGER NOT NULL DEFAULT 0;

ALTER TABLE tokens ADD COLUMN idle_seconds INTEGER NOT NULL DEFAULT 0;
-- When its newest secret was made.
ALTER TABLE tokens ADD COLUMN rotated_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN last_used_from TEXT NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN last_used_host TEXT NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN uses INTEGER NOT NULL DEFAULT 0;
UPDATE tokens SET rotated_at = created_at;
-- For the purge of what ended long ago.
CREATE INDEX tokens_revoked ON tokens (revoked_at) WHERE revoked_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tokens_expires ON tokens (expires_at) WHERE expires_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tokens_idle ON tokens (id) WHERE idle_seconds > 0 AND deleted_at IS NULL;

ALTER TABLE token_secrets ADD COLUMN last4 TEXT NOT NULL DEFAULT '';
ALTER TABLE token_secrets ADD COLUMN last_used_at INTEGER;
ALTER TABLE token_secrets ADD COLUMN uses INTEGER NOT NULL DEFAULT 0;
CREATE INDEX token_secrets_expires ON token_secrets (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX token_secrets_retired ON token_secrets (retired_at) WHERE retired_at IS NOT NULL;
UPDATE token_secrets SET last4 = (SELECT t.last4 FROM tokens t WHERE t.id = token_id);

-- Who uses a secret: the name that the host gives itself, and the address it
-- was seen with.
CREATE TABLE secret_uses (
    secret_id TEXT NOT NULL REFERENCES token_secrets (id) ON DELETE CASCADE,
    host TEXT NOT NULL,
    address TEXT NOT NULL,
    last_used_at INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    PRIMARY KEY (secret_id, host, address)
) STRICT, WITHOUT ROWID;

-- One-time codes that are traded for a token's first secret.
CREATE TABLE token_claims (
    token_id TEXT PRIMARY KEY REFERENCES tokens (id),
    tag BLOB NOT NULL CHECK (length(tag) = 32),
    pepper_id TEXT NOT NULL,
    phc TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    redeemed_at INTEGER,
    redeemed_from TEXT NOT NULL DEFAULT ''
) STRICT;

-- Mounts that live, as their metadata servers report them.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    server_id TEXT NOT NULL REFERENCES meta_servers (id),
    token_id TEXT NOT NULL REFERENCES tokens (id),
    secret_id TEXT NOT NULL,
    volume_id TEXT NOT NULL REFERENCES volumes (id),
    mount_path TEXT NOT NULL,
    host TEXT NOT NULL,
    dir TEXT NOT NULL,
    address TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    -- Known from before a subscription whose report is not yet complete.
    stale INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX sessions_server ON sessions (server_id);
CREATE INDEX sessions_token ON sessions (token_id);
CREATE INDEX sessions_secret ON sessions (secret_id);
CREATE INDEX sessions_volume ON sessions (volume_id, opened_at, id);

-- What a request id was used for, so that a repetition is known as one.
CREATE TABLE requests (
    who TEXT NOT NULL,
    request_id TEXT NOT NULL,
    -- SHA-256 of the request, to know another one under the same id.
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    target TEXT NOT NULL,
    revision INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (who, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_at ON requests (at);

-- Admins over this database, and the revision that each knows of.
CREATE TABLE replicas (
    id TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    seen INTEGER NOT NULL,
    -- By the database's clock.
    renewed_at INTEGER NOT NULL
) STRICT;
