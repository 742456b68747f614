-- +goose Up
-- What each transaction changed, as events; one row for a transaction.
CREATE TABLE event_batch (
    first INTEGER PRIMARY KEY, -- sequence of its first event
    last  BIGINT NOT NULL,
    at    BIGINT NOT NULL,
    size  BIGINT NOT NULL,     -- bytes of body
    body  TEXT NOT NULL        -- a line for each event
);

-- +goose Down
DROP TABLE event_batch;
