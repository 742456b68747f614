-- +goose Up
CREATE TABLE management_lock (
    key     TEXT PRIMARY KEY, -- scope and name, lower case
    scope   TEXT NOT NULL,    -- as first written
    name    TEXT NOT NULL,
    level   TEXT NOT NULL,    -- CanNotDelete or ReadOnly
    notes   TEXT NOT NULL,
    created BIGINT NOT NULL
);
