-- +goose Up
-- The last evaluations of a pool's formula.
CREATE TABLE autoscale_run (
    account  TEXT NOT NULL,
    pool_key TEXT NOT NULL,
    at       BIGINT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (account, pool_key, at)
);

-- +goose Down
DROP TABLE autoscale_run;
