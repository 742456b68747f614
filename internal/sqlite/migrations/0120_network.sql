-- +goose Up
-- number: a node's number within its pool, from which its private address and
-- its ports on the host follow; 0 until its first machine is launched.
ALTER TABLE node ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
CREATE INDEX node_number ON node (account, pool_key, number);

-- Nodes that run an instance of a multi-instance task beside its first, whose
-- node is in the task's own row.
CREATE TABLE task_node (
    node_key TEXT NOT NULL,
    account  TEXT NOT NULL,
    job_key  TEXT NOT NULL,
    key      TEXT NOT NULL,
    PRIMARY KEY (node_key, account, job_key, key)
);
CREATE INDEX task_node_task ON task_node (account, job_key, key);

-- +goose Down
DROP TABLE task_node;
DROP INDEX node_number;
ALTER TABLE node DROP COLUMN number;
