-- +goose Up
-- Whether the server has what the task wrote.
ALTER TABLE task_directory ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
CREATE INDEX task_directory_unkept ON task_directory (node_key) WHERE kept = 0;

-- +goose Down
DROP INDEX task_directory_unkept;
ALTER TABLE task_directory DROP COLUMN kept;
