-- +goose Up
CREATE TABLE tenant (
    id           TEXT PRIMARY KEY,
    display_name TEXT NOT NULL,
    domain       TEXT NOT NULL UNIQUE,
    created      BIGINT NOT NULL
);

CREATE TABLE application (
    id              TEXT PRIMARY KEY,
    app_id          TEXT NOT NULL UNIQUE,
    tenant          TEXT NOT NULL REFERENCES tenant (id),
    display_name    TEXT NOT NULL,
    audience        TEXT NOT NULL,
    identifier_uris TEXT NOT NULL, -- JSON array of strings
    created         BIGINT NOT NULL
);
CREATE INDEX application_tenant ON application (tenant, created);

CREATE TABLE application_secret (
    key_id       TEXT PRIMARY KEY,
    application  TEXT NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    display_name TEXT NOT NULL,
    hint         TEXT NOT NULL,
    digest       TEXT NOT NULL, -- SHA-256 of the secret, hex
    starts       BIGINT NOT NULL,
    ends         BIGINT NOT NULL
);
CREATE INDEX application_secret_application ON application_secret (application, starts);

CREATE TABLE service_principal (
    id      TEXT PRIMARY KEY,
    app_id  TEXT NOT NULL REFERENCES application (app_id) ON DELETE CASCADE,
    tenant  TEXT NOT NULL REFERENCES tenant (id),
    enabled INTEGER NOT NULL,
    created BIGINT NOT NULL,
    UNIQUE (tenant, app_id)
);

CREATE TABLE role_definition (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL REFERENCES tenant (id),
    name        TEXT NOT NULL,
    name_key    TEXT NOT NULL,
    description TEXT NOT NULL,
    scopes      TEXT NOT NULL, -- JSON array of strings
    permissions TEXT NOT NULL, -- JSON array of permissions
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL,
    UNIQUE (tenant, name_key)
);

CREATE TABLE role_assignment (
    id             TEXT NOT NULL,
    tenant         TEXT NOT NULL REFERENCES tenant (id),
    principal      TEXT NOT NULL,
    principal_type TEXT NOT NULL,
    role           TEXT NOT NULL,
    scope          TEXT NOT NULL,
    scope_key      TEXT NOT NULL,
    description    TEXT NOT NULL,
    created_by     TEXT NOT NULL,
    created        BIGINT NOT NULL,
    updated        BIGINT NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, principal, role, scope_key)
);

-- +goose Down
DROP TABLE role_assignment;
DROP TABLE role_definition;
DROP TABLE service_principal;
DROP TABLE application_secret;
DROP TABLE application;
DROP TABLE tenant;
