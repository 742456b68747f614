package azwire

import "strings"

// Service is one of Azure's services, as a host name tells it.
type Service int

const (
	// NoService is a host that is not Azure's: this server's own address, or
	// somebody else's.
	NoService Service = iota
	ServiceLogin
	ServiceARM
	ServiceGraph
	ServiceBatch
	ServiceBlob
	// ServiceAbsent is a host that clients ask for things they can do without; it
	// is answered with 404 so that they go on.
	ServiceAbsent
	// ServiceOther is a host of Azure's that Millpond does not serve.
	ServiceOther
)

// Suffixes of account hosts.
const (
	BatchSuffix = ".batch.azure.com"
	BlobSuffix  = ".blob.core.windows.net"
	DiskSuffix  = ".blob.storage.azure.net"
)

// ServedHosts are the names that Millpond answers for, ends of names with a dot
// first.
func ServedHosts() []string {
	return []string{"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net", "management.azure.com", "management.core.windows.net", "graph.microsoft.com",
		BatchSuffix, BlobSuffix, DiskSuffix}
}

// ServiceOf tells what a host name, without port, stands for. It is the one list
// of the names that Millpond answers for (arm-and-identity.md §1.2): the
// listener mounts by it and the proxy of `millpond exec` tunnels by it.
func ServiceOf(host string) Service {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	switch host {
	case "login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net":
		return ServiceLogin
	case "management.azure.com", "management.core.windows.net":
		return ServiceARM
	case "graph.microsoft.com":
		return ServiceGraph
	case "raw.githubusercontent.com", "aka.ms":
		return ServiceAbsent
	}
	switch {
	case strings.HasSuffix(host, BatchSuffix):
		return ServiceBatch
	case strings.HasSuffix(host, BlobSuffix), strings.HasSuffix(host, DiskSuffix):
		return ServiceBlob
	case strings.HasSuffix(host, ".cloudapp.azure.com"):
		return NoService // a rented machine, on which Millpond may well run
	}
	for _, s := range []string{".azure.com", ".windows.net", ".azure.net", ".microsoft.com", ".microsoftonline.com"} {
		if strings.HasSuffix(host, s) {
			return ServiceOther
		}
	}
	return NoService
}
