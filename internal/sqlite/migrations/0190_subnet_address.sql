-- +goose Up
-- Addresses of subnets that nodes of pools have; those of network interfaces are
-- in their own rows. subnet is the key of its resource id, pool the pool's.
CREATE TABLE subnet_address (
    subnet   TEXT NOT NULL,
    address  TEXT NOT NULL,
    node_key TEXT NOT NULL UNIQUE,
    pool     TEXT NOT NULL,
    PRIMARY KEY (subnet, address)
);

-- +goose Down
DROP TABLE subnet_address;
