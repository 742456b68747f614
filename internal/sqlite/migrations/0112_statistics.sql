-- +goose Up
-- What the tasks of a job have come to, kept by every transaction in which one
-- ends. Jobs that are deleted add to the row of their schedule, whose job_key is
-- the schedule's key and a colon, or to that of the account, whose job_key is
-- empty. Times are microseconds.
CREATE TABLE job_stat (
    account       TEXT NOT NULL,
    job_key       TEXT NOT NULL,
    updated       BIGINT NOT NULL,
    user_cpu      BIGINT NOT NULL,
    kernel_cpu    BIGINT NOT NULL,
    wall          BIGINT NOT NULL,
    reads         BIGINT NOT NULL,
    writes        BIGINT NOT NULL,
    bytes_read    BIGINT NOT NULL,
    bytes_written BIGINT NOT NULL,
    succeeded     BIGINT NOT NULL,
    failed        BIGINT NOT NULL,
    retries       BIGINT NOT NULL,
    wait          BIGINT NOT NULL,
    PRIMARY KEY (account, job_key)
);
-- When nodes were there, also of pools that are gone. ended is 0 until then.
CREATE TABLE node_life (
    node_key  TEXT NOT NULL,
    began     BIGINT NOT NULL,
    ended     BIGINT NOT NULL,
    account   TEXT NOT NULL,
    pool_key  TEXT NOT NULL,
    pool      TEXT NOT NULL,
    vm_size   TEXT NOT NULL,
    dedicated INTEGER NOT NULL,
    PRIMARY KEY (node_key, began)
);
CREATE INDEX node_life_by_pool ON node_life (account, pool_key, began);
INSERT INTO node_life SELECT key, allocated, 0, account, pool_key, json_extract(document, '$.Pool'), vm_size, dedicated FROM node WHERE allocated > 0;
INSERT INTO job_stat SELECT account, job_key, 0, 0, 0, 0, 0, 0, 0, 0, sum(CASE WHEN result = 'success' THEN n ELSE 0 END), sum(CASE WHEN result = 'failure' THEN n ELSE 0 END), 0, 0
    FROM job_count WHERE state = 'completed' GROUP BY account, job_key;

-- +goose Down
DROP TABLE node_life;
DROP TABLE job_stat;
