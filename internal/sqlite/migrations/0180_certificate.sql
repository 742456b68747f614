-- +goose Up
-- Certificates of Batch accounts. secret is what nodes install, private keys among
-- it; only the nodes' sessions read it.
CREATE TABLE certificate (
    account    TEXT NOT NULL,
    thumbprint TEXT NOT NULL,
    state      TEXT NOT NULL,
    document   TEXT NOT NULL,
    secret     BLOB NOT NULL,
    PRIMARY KEY (account, thumbprint)
);

-- +goose Down
DROP TABLE certificate;
