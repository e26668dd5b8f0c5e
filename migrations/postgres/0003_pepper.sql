-- The pepper of new tags, known by a value that is keyed with it: a server that
-- has another one does not start.
CREATE TABLE pepper (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    id TEXT COLLATE "C" NOT NULL,
    check_value BYTEA NOT NULL CHECK (length(check_value) = 32),
    since BIGINT NOT NULL
);

-- For counting what still lies under an earlier one.
CREATE INDEX token_secrets_pepper ON token_secrets (pepper_id);
CREATE INDEX token_claims_pepper ON token_claims (pepper_id);
