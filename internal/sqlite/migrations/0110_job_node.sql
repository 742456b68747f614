-- +goose Up
-- Jobs with a preparation task on the nodes that were given a task of them.
CREATE TABLE job_node (
    account  TEXT NOT NULL,
    job_key  TEXT NOT NULL,
    node_key TEXT NOT NULL,
    phase    TEXT NOT NULL,
    changed  BIGINT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (account, job_key, node_key)
);
CREATE INDEX job_node_by_node ON job_node (node_key) WHERE phase <> 'done';
CREATE INDEX job_node_barred ON job_node (account) WHERE phase = 'barred';

-- +goose Down
DROP TABLE job_node;
