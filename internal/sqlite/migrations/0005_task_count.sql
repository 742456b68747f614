-- +goose Up
-- How many tasks of a job are in a state, kept by every transaction that
-- changes tasks: counting a million rows takes too long.
CREATE TABLE job_count (
    account TEXT NOT NULL,
    job_key TEXT NOT NULL,
    state   TEXT NOT NULL,
    result  TEXT NOT NULL,
    n       BIGINT NOT NULL,
    slots   BIGINT NOT NULL,
    PRIMARY KEY (account, job_key, state, result)
);
INSERT INTO job_count SELECT account, job_key, state, result, count(*), sum(slots) FROM task GROUP BY account, job_key, state, result;

-- A page of one state is read in the order of keys; the scheduler keeps the
-- queue in memory.
DROP INDEX task_by_state;
DROP INDEX task_queue;
CREATE INDEX task_by_state ON task (account, job_key, state, key);


-- waits: it has dependsOn. satisfies: those that depend on it may start.
ALTER TABLE task ADD COLUMN waits INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN satisfies INTEGER NOT NULL DEFAULT 0;
UPDATE task SET satisfies = 1 WHERE state = 'completed' AND result = 'success';
-- What the end of a task asks of its job: terminate or disable, and why.
ALTER TABLE job ADD COLUMN asked TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN asked_why TEXT NOT NULL DEFAULT '';
CREATE INDEX job_asked ON job (account, key) WHERE asked <> '';

-- +goose Down
DROP INDEX job_asked;
ALTER TABLE job DROP COLUMN asked_why;
ALTER TABLE job DROP COLUMN asked;
ALTER TABLE task DROP COLUMN satisfies;
ALTER TABLE task DROP COLUMN waits;
DROP INDEX task_by_state;
CREATE INDEX task_by_state ON task (account, job_key, state, result, slots);
CREATE INDEX task_queue ON task (account, job_key, ord) WHERE state = 'active';
DROP TABLE job_count;
