package main

import (
	"encoding/json"
	"fmt"
	"os"

	"millpond.dev/millpond/internal/identity"
)

// CloudConfigCmd prints this server as a cloud, for clients that are pointed at
// it instead of being run by millpond exec.
type CloudConfigCmd struct {
	Endpoint string `help:"The address by which clients reach the server, if it is not the one it listens on." placeholder:"https://HOST:PORT"`
}

func (c *CloudConfigCmd) Run(g *Globals) error {
	data, err := absolute(g.Data)
	if err != nil {
		return err
	}
	base := c.Endpoint
	if base == "" {
		address, err := endpoint(data)
		if err != nil {
			return err
		}
		base = "https://" + address
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(identity.CloudConfig(base)); err != nil {
		return err
	}
	// On the other stream, so that `> cloud.json` holds the document alone.
	fmt.Fprintf(os.Stderr, `Save the above as cloud.json, then:
  export REQUESTS_CA_BUNDLE=%[1]s
  az cloud register -n %[2]s --cloud-config @cloud.json
  az cloud set -n %[2]s
  az login --service-principal -u CLIENT-ID -p SECRET --tenant TENANT-ID   # from %[3]s
`, data.CA(), identity.CloudName, data.Credentials())
	return nil
}
