-- +goose Up
ALTER TABLE pool ADD COLUMN rolling BOOLEAN NOT NULL DEFAULT FALSE; -- a rollout is under way, or may begin by itself
