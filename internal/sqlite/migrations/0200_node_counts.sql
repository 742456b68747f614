-- +goose Up
-- What a pool's sizes and the counts of its nodes are read from; rows of nodes are
-- long, and the counts of a large pool would read them all.
CREATE INDEX node_by_state ON node (account, pool_key, dedicated, state, allocated);

-- +goose Down
DROP INDEX node_by_state;
