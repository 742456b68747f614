-- +goose Up
-- Principals of managed identities. They have no application, which those of
-- service_principal refer to. resource is the identity's resource id.
CREATE TABLE managed_principal (
    id           TEXT PRIMARY KEY,
    app_id       TEXT NOT NULL UNIQUE,
    tenant       TEXT NOT NULL REFERENCES tenant (id),
    display_name TEXT NOT NULL,
    resource     TEXT NOT NULL,
    created      BIGINT NOT NULL
);
CREATE INDEX managed_principal_tenant ON managed_principal (tenant, created);

-- +goose Down
DROP TABLE managed_principal;
