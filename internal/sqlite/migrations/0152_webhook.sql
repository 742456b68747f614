-- +goose Up
-- Who is posted events. document is written by users, cursor and status by the
-- delivery.
CREATE TABLE webhook (
    account  TEXT NOT NULL,
    key      TEXT NOT NULL, -- lower-case id
    document TEXT NOT NULL,
    cursor   BIGINT NOT NULL, -- the last event that was delivered or passed by
    status   TEXT NOT NULL,
    PRIMARY KEY (account, key)
);

-- +goose Down
DROP TABLE webhook;
