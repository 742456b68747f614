-- +goose Up
-- Measurements that formulas of pools are evaluated against.
CREATE TABLE autoscale_sample (
    account  TEXT NOT NULL,
    pool_key TEXT NOT NULL,
    at       BIGINT NOT NULL,
    vals     TEXT NOT NULL, -- JSON object, variable to number
    PRIMARY KEY (account, pool_key, at)
);

-- +goose Down
DROP TABLE autoscale_sample;
