package sqlite

import (
	"database/sql"
	"errors"

	millpond "millpond.dev/millpond"
)

// SubnetAddress is an address that a node of a pool has in a subnet. Package
// network gives them out; they end with the node's row.
type SubnetAddress struct {
	Subnet  string // its key
	Address string
	Node    millpond.NodeID
	Pool    string // the pool's resource id
}

// InsertSubnetAddress gives an address to a node; one that somebody has is an
// error (IsUnique).
func (t *Tx) InsertSubnetAddress(a SubnetAddress) error {
	_, err := t.exec(`INSERT INTO subnet_address (subnet, address, node_key, pool) VALUES (?, ?, ?, ?)`, a.Subnet, a.Address, a.Node.Key(), a.Pool)
	return err
}

// SubnetAddresses lists the addresses of nodes in the subnets of a subscription.
func (t *Tx) SubnetAddresses(subscription string) ([]SubnetAddress, error) {
	return collect(t, func(r *sql.Rows) (a SubnetAddress, err error) {
		return a, r.Scan(&a.Subnet, &a.Address, &a.Node, &a.Pool)
	}, `SELECT subnet, address, node_key, pool FROM subnet_address WHERE subnet >= ? AND subnet < ? ORDER BY subnet, address`,
		"/subscriptions/"+subscription+"/", "/subscriptions/"+subscription+"0")
}

// NodeAddress is the address that a node has in a subnet; false without one.
func (t *Tx) NodeAddress(node millpond.NodeID) (a SubnetAddress, ok bool, err error) {
	err = t.row(`SELECT subnet, address, node_key, pool FROM subnet_address WHERE node_key = ?`, node.Key()).Scan(&a.Subnet, &a.Address, &a.Node, &a.Pool)
	if errors.Is(err, ErrNoRow) {
		return a, false, nil
	}
	return a, err == nil, err
}

// HasSubnetAddresses says that some node has an address in a subnet.
func (t *Tx) HasSubnetAddresses() (some bool, err error) {
	return some, t.row(`SELECT EXISTS (SELECT 1 FROM subnet_address)`).Scan(&some)
}
