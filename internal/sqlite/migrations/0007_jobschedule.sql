-- +goose Up
CREATE TABLE job_schedule (
    account  TEXT NOT NULL,
    key      TEXT NOT NULL,
    state    TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (account, key)
);

-- +goose Down
DROP TABLE job_schedule;
