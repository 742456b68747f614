-- +goose Up
CREATE TABLE deployment (
    key          TEXT PRIMARY KEY, -- lower-case id
    subscription TEXT NOT NULL,
    group_key    TEXT REFERENCES resource_group (key) ON DELETE CASCADE, -- null at a subscription
    state        TEXT NOT NULL,
    started      BIGINT NOT NULL,
    ended        BIGINT NOT NULL,
    document     TEXT NOT NULL
);
CREATE INDEX deployment_by_state ON deployment (state);
CREATE INDEX deployment_by_scope ON deployment (subscription, group_key, key);

CREATE TABLE deployment_step (
    deployment TEXT NOT NULL REFERENCES deployment (key) ON DELETE CASCADE,
    ordinal    INTEGER NOT NULL,
    document   TEXT NOT NULL,
    PRIMARY KEY (deployment, ordinal)
);

-- +goose Down
DROP TABLE deployment_step;
DROP TABLE deployment;
