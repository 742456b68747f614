package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/config"
	"millpond.dev/millpond/internal/storage"
	"millpond.dev/millpond/internal/storageapi"
)

// openBlobService is the real blob service behind storage accounts, nil without
// one. It need not run yet: what it is asked for meanwhile is refused.
func openBlobService(cfg config.BlobService) (*storage.Backend, error) {
	if cfg.URL == "" {
		return nil, nil
	}
	key := ""
	if cfg.KeyFile != "" {
		text, err := os.ReadFile(cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the blob service's key: %w", err)
		}
		key = string(text)
	}
	return storage.NewBackend(cfg.URL, key, &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		// Blobs are the bytes as they are stored.
		DisableCompression:    true,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
	})
}

// diskOpener is storageapi.Options.OpenDisk by the disks.
func diskOpener(disks *compute.Service) func(context.Context, compute.Access) (storageapi.Disk, error) {
	return func(ctx context.Context, a compute.Access) (storageapi.Disk, error) {
		b, err := disks.OpenBlob(ctx, a)
		if err != nil {
			return nil, err // not b, whose nil would be a disk
		}
		return b, nil
	}
}
