-- +goose Up
ALTER TABLE node ADD COLUMN due BIGINT NOT NULL DEFAULT 0; -- when what is pending is carried out at the latest; 0 without a limit
