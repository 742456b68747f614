package batchapi

import (
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent/proc"
)

// mountRule is one item of mountConfiguration: exactly one kind of file system.
func mountRule() *rule {
	options := func() *rule { return text(4096) }
	place := func() *rule { return text(1024).needed() }
	return object(map[string]*rule{
		"nfsMountConfiguration":  object(map[string]*rule{"source": text(2048).needed(), "relativeMountPath": place(), "mountOptions": options()}),
		"cifsMountConfiguration": object(map[string]*rule{"source": text(2048).needed(), "username": text(256).needed(), "password": text(1024).needed(), "relativeMountPath": place(), "mountOptions": options()}),
		"azureFileShareConfiguration": object(map[string]*rule{"accountName": text(64).needed(), "azureFileUrl": text(2048).needed(), "accountKey": text(1024).needed(),
			"relativeMountPath": place(), "mountOptions": options()}),
		"azureBlobFileSystemConfiguration": refuse("Mounting blob containers is not supported. Use an NFS or SMB share, or resource and output files."),
	}).check(func(_ *body, m map[string]any, path string) error {
		if len(m) != 1 {
			return invalid(path, "", "It must have exactly one of nfsMountConfiguration, cifsMountConfiguration and azureFileShareConfiguration.")
		}
		for name, v := range m {
			c := v.(map[string]any)
			at := path + "." + name
			source, _ := c["source"].(string)
			switch name {
			case "nfsMountConfiguration":
				if host, _, ok := strings.Cut(source, ":/"); !ok || host == "" {
					return invalid(at+".source", source, "It must be of the form host:/path.")
				}
			case "cifsMountConfiguration":
				if s := strings.ReplaceAll(source, `\`, "/"); !strings.HasPrefix(s, "//") || strings.Count(strings.Trim(s, "/"), "/") < 1 {
					return invalid(at+".source", source, "It must be of the form //host/share.")
				}
			case "azureFileShareConfiguration":
				address, _ := c["azureFileUrl"].(string)
				if u, err := url.Parse(address); err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") == "" {
					return invalid(at+".azureFileUrl", address, "It must be of the form https://account.file.core.windows.net/share.")
				}
			}
			if o, _ := c["mountOptions"].(string); strings.TrimSpace(o) != "" {
				if _, err := proc.Split(o); err != nil {
					return invalid(at+".mountOptions", o, "They cannot be divided into words: "+err.Error()+".")
				}
			}
		}
		return nil
	})
}

func mounts(in []azbatch.MountConfiguration) []millpond.Mount {
	var out []millpond.Mount
	for _, c := range in {
		switch {
		case c.NfsMountConfiguration != nil:
			n := c.NfsMountConfiguration
			out = append(out, millpond.Mount{Type: millpond.MountNFS, Source: text0(n.Source), Path: text0(n.RelativeMountPath), Options: text0(n.MountOptions)})
		case c.CifsMountConfiguration != nil:
			n := c.CifsMountConfiguration
			out = append(out, millpond.Mount{Type: millpond.MountCIFS, Source: text0(n.Source), Path: text0(n.RelativeMountPath), Options: text0(n.MountOptions), User: text0(n.Username), Password: text0(n.Password)})
		case c.AzureFileShareConfiguration != nil:
			n := c.AzureFileShareConfiguration
			out = append(out, millpond.Mount{Type: millpond.MountAzureFile, Source: text0(n.AzureFileURL), Path: text0(n.RelativeMountPath), Options: text0(n.MountOptions), User: text0(n.AccountName), Password: text0(n.AccountKey)})
		}
	}
	return out
}

// mountsModel leaves passwords and keys out.
func mountsModel(in []millpond.Mount) []azbatch.MountConfiguration {
	var out []azbatch.MountConfiguration
	for _, m := range in {
		var c azbatch.MountConfiguration
		switch m.Type {
		case millpond.MountNFS:
			c.NfsMountConfiguration = &azbatch.NFSMountConfiguration{Source: ptr(m.Source), RelativeMountPath: ptr(m.Path), MountOptions: some(m.Options)}
		case millpond.MountCIFS:
			c.CifsMountConfiguration = &azbatch.CIFSMountConfiguration{Source: ptr(m.Source), Username: ptr(m.User), RelativeMountPath: ptr(m.Path), MountOptions: some(m.Options)}
		case millpond.MountAzureFile:
			c.AzureFileShareConfiguration = &azbatch.AzureFileShareConfiguration{AzureFileURL: ptr(m.Source), AccountName: ptr(m.User), RelativeMountPath: ptr(m.Path), MountOptions: some(m.Options)}
		}
		out = append(out, c)
	}
	return out
}
