package millpond

// Full types of the network's resources, in canonical spelling. Subnets and
// security rules live inside their parents' documents.
const (
	TypeVirtualNetwork = "Microsoft.Network/virtualNetworks"
	TypeSubnet         = "Microsoft.Network/virtualNetworks/subnets"
	TypePublicAddress  = "Microsoft.Network/publicIPAddresses"
	TypeInterface      = "Microsoft.Network/networkInterfaces"
	TypeSecurityGroup  = "Microsoft.Network/networkSecurityGroups"
	TypeSecurityRule   = "Microsoft.Network/networkSecurityGroups/securityRules"
)

// VirtualNetwork is an address space with its subnets.
type VirtualNetwork struct {
	Resource   `json:"-"`
	ETag       string
	UniqueID   string   // GUID
	Prefixes   []string // CIDR, canonical
	DNSServers []string `json:",omitempty"`
	Subnets    []Subnet `json:",omitempty"`
}

// Subnet is a part of a virtual network's address space.
type Subnet struct {
	Name   string
	ETag   string
	Prefix string // CIDR, canonical
	// SecurityGroup is the id of a network security group, or empty.
	SecurityGroup string `json:",omitempty"`
	// DefaultOutbound and PrivateEndpoints are kept as they were set; nothing
	// here depends on them.
	DefaultOutbound  *bool  `json:",omitempty"`
	PrivateEndpoints string `json:",omitempty"`
}

// PublicAddress is an address under which a machine is reached from outside:
// here one of the host's loopback addresses.
type PublicAddress struct {
	Resource    `json:"-"`
	ETag        string
	UniqueID    string
	SKU         string   // Basic or Standard
	Allocation  string   // Static or Dynamic
	Zones       []string `json:",omitempty"`
	IdleMinutes int32
	Label       string `json:",omitempty"` // DNS label
	ReverseFQDN string `json:",omitempty"`
	Address     string // 127.x.y.z
}

// NetworkInterface is a machine's card.
type NetworkInterface struct {
	Resource      `json:"-"`
	ETag          string
	UniqueID      string
	MAC           string // 00-0D-3A-xx-xx-xx, as Azure writes it
	Configs       []IPConfig
	SecurityGroup string   `json:",omitempty"` // id
	DNSServers    []string `json:",omitempty"`
	Accelerated   bool     `json:",omitempty"`
	// Machine is the id of the virtual machine that holds the card, or empty.
	Machine string `json:",omitempty"`
	Primary bool   `json:",omitempty"`
}

// IPConfig is one address of a network interface.
type IPConfig struct {
	Name          string
	ETag          string
	Primary       bool
	Subnet        string // id
	Address       string
	Static        bool
	PublicAddress string `json:",omitempty"` // id
}

// SecurityGroup is a list of rules about which traffic passes.
type SecurityGroup struct {
	Resource `json:"-"`
	ETag     string
	UniqueID string
	Rules    []SecurityRule `json:",omitempty"`
}

// SecurityRule lets traffic pass or not. Prefixes are CIDRs, addresses, "*" or
// service tags; ports are numbers, ranges FROM-TO or "*".
type SecurityRule struct {
	Name         string
	ETag         string
	Description  string `json:",omitempty"`
	Protocol     string // Tcp, Udp, Icmp, Esp, Ah or *
	Access       string // Allow or Deny
	Direction    string // Inbound or Outbound
	Priority     int
	Sources      []string
	SourcePorts  []string
	Destinations []string
	Ports        []string
	// Plural members are shown the way in which they were written.
	SourceList, SourcePortList, DestinationList, PortList bool `json:",omitempty"`
}
