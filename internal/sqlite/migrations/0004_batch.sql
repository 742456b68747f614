-- +goose Up
-- Columns are what queries need; document holds the noun as JSON. Where both
-- have a value, the column counts.
CREATE TABLE pool (
    account    TEXT NOT NULL, -- lower case
    key        TEXT NOT NULL, -- lower-case id
    state      TEXT NOT NULL,
    allocation TEXT NOT NULL,
    document   TEXT NOT NULL,
    PRIMARY KEY (account, key)
);

CREATE TABLE node (
    key             TEXT PRIMARY KEY, -- lower-case id
    id              TEXT NOT NULL,
    account         TEXT NOT NULL,
    pool_key        TEXT NOT NULL,
    generation      INTEGER NOT NULL,
    dedicated       INTEGER NOT NULL,
    allocated       BIGINT NOT NULL,  -- 0 until its machine ran
    state           TEXT NOT NULL,
    changed         BIGINT NOT NULL,
    scheduling      TEXT NOT NULL,
    pending         TEXT NOT NULL,
    pending_option  TEXT NOT NULL,
    vm_size         TEXT NOT NULL,
    sequence        BIGINT NOT NULL,
    next_launch     BIGINT NOT NULL,
    launch_failed   INTEGER NOT NULL,
    tasks_run       INTEGER NOT NULL,
    tasks_succeeded INTEGER NOT NULL,
    recent          TEXT NOT NULL,    -- JSON array of the last tasks
    document        TEXT NOT NULL
);
CREATE INDEX node_by_pool ON node (account, pool_key, key);

CREATE TABLE job (
    account  TEXT NOT NULL,
    key      TEXT NOT NULL,
    pool_key TEXT NOT NULL,
    state    TEXT NOT NULL,
    priority INTEGER NOT NULL,
    created  BIGINT NOT NULL,
    deadline BIGINT NOT NULL,   -- when maxWallClock ends it; 0 for none
    auto     INTEGER NOT NULL,  -- onAllTasksComplete is terminatejob
    document TEXT NOT NULL,
    PRIMARY KEY (account, key)
);
CREATE INDEX job_by_pool ON job (account, pool_key, state);
CREATE INDEX job_by_state ON job (state);

CREATE TABLE task (
    account  TEXT NOT NULL,
    job_key  TEXT NOT NULL,
    key      TEXT NOT NULL,
    state    TEXT NOT NULL,
    result   TEXT NOT NULL,
    slots    INTEGER NOT NULL,
    ord      BIGINT NOT NULL,  -- the queue's order within the job
    node_key TEXT NOT NULL,
    placed   INTEGER NOT NULL, -- it occupies slots of node_key
    spec     TEXT NOT NULL,
    run      TEXT NOT NULL,
    PRIMARY KEY (account, job_key, key)
);
CREATE INDEX task_by_state ON task (account, job_key, state, result, slots);
CREATE INDEX task_queue ON task (account, job_key, ord) WHERE state = 'active';
CREATE INDEX task_by_node ON task (node_key) WHERE placed = 1;

-- Task directories to remove from nodes, and when.
CREATE TABLE task_directory (
    node_key  TEXT NOT NULL,
    directory TEXT NOT NULL,
    account   TEXT NOT NULL,
    job       TEXT NOT NULL,
    task      TEXT NOT NULL,
    attempt   INTEGER NOT NULL,
    due       BIGINT NOT NULL,
    PRIMARY KEY (node_key, directory)
);
CREATE INDEX task_directory_due ON task_directory (due);
CREATE INDEX task_directory_task ON task_directory (account, job, task);

-- +goose Down
DROP TABLE task_directory;
DROP TABLE task;
DROP TABLE job;
DROP TABLE node;
DROP TABLE pool;
