-- +goose Up
-- Pools that the service makes for jobs and schedules, until they are deleted.
CREATE TABLE owned_pool (
    account  TEXT NOT NULL,
    key      TEXT NOT NULL, -- the pool's
    schedule TEXT NOT NULL, -- the key of the schedule that owns it; empty for a job's
    stage    TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (account, key)
);
CREATE INDEX owned_pool_open ON owned_pool (stage) WHERE stage <> 'made';

-- +goose Down
DROP TABLE owned_pool;
