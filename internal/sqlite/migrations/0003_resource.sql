-- +goose Up
CREATE TABLE subscription (
    id      TEXT PRIMARY KEY,
    tenant  TEXT NOT NULL,
    name    TEXT NOT NULL,
    created BIGINT NOT NULL
);

CREATE TABLE subscription_alias (
    name         TEXT PRIMARY KEY,
    subscription TEXT NOT NULL REFERENCES subscription (id)
);

CREATE TABLE registration (
    subscription TEXT NOT NULL REFERENCES subscription (id),
    namespace    TEXT NOT NULL, -- lower case
    PRIMARY KEY (subscription, namespace)
);

CREATE TABLE resource_group (
    key          TEXT PRIMARY KEY, -- lower-case scope
    subscription TEXT NOT NULL REFERENCES subscription (id),
    name         TEXT NOT NULL,
    location     TEXT NOT NULL,
    tags         TEXT NOT NULL,
    state        TEXT NOT NULL,
    created      BIGINT NOT NULL
);

CREATE TABLE resource (
    key          TEXT PRIMARY KEY, -- lower-case id
    id           TEXT NOT NULL,
    type         TEXT NOT NULL,    -- lower case
    subscription TEXT NOT NULL,
    group_key    TEXT NOT NULL REFERENCES resource_group (key),
    parent       TEXT NOT NULL,    -- key of the parent resource, or empty
    name         TEXT NOT NULL,    -- lower case, last segment
    location     TEXT NOT NULL,
    tags         TEXT NOT NULL,
    state        TEXT NOT NULL,
    created      BIGINT NOT NULL,
    changed      BIGINT NOT NULL,
    document     TEXT NOT NULL
);
CREATE INDEX resource_by_type ON resource (type, subscription, key);
CREATE INDEX resource_by_group ON resource (group_key, key);
CREATE INDEX resource_by_parent ON resource (parent, key);

CREATE TABLE operation (
    id           TEXT PRIMARY KEY,
    subscription TEXT NOT NULL,
    target       TEXT NOT NULL,
    verb         TEXT NOT NULL,
    status       TEXT NOT NULL,
    code         TEXT NOT NULL,
    message      TEXT NOT NULL,
    started      BIGINT NOT NULL,
    ended        BIGINT NOT NULL
);
CREATE INDEX operation_by_target ON operation (target, status);

CREATE TABLE disk_access (
    id      TEXT PRIMARY KEY,
    disk    TEXT NOT NULL REFERENCES resource (key) ON DELETE CASCADE,
    writes  INTEGER NOT NULL,
    expires BIGINT NOT NULL
);
CREATE INDEX disk_access_by_disk ON disk_access (disk);

-- Which resource needs which content in which store. A content that no row
-- names may be deleted; the count is computed, never stored.
CREATE TABLE content_use (
    owner   TEXT NOT NULL REFERENCES resource (key) ON DELETE CASCADE,
    store   TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (owner, store, content)
);
CREATE INDEX content_use_by_content ON content_use (store, content);

CREATE TABLE replica (
    version TEXT NOT NULL REFERENCES resource (key) ON DELETE CASCADE,
    region  TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    store   TEXT NOT NULL,
    state   TEXT NOT NULL,
    done    BIGINT NOT NULL,
    total   BIGINT NOT NULL,
    details TEXT NOT NULL,
    PRIMARY KEY (version, region, ordinal)
);

-- +goose Down
DROP TABLE replica;
DROP TABLE content_use;
DROP TABLE disk_access;
DROP TABLE operation;
DROP TABLE resource;
DROP TABLE resource_group;
DROP TABLE registration;
DROP TABLE subscription_alias;
DROP TABLE subscription;
