package main

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/baseimage"
	"millpond.dev/millpond/internal/compute"
	"millpond.dev/millpond/internal/gallery"
	"millpond.dev/millpond/internal/launch"
	"millpond.dev/millpond/internal/machine"
	"millpond.dev/millpond/internal/network"
	"millpond.dev/millpond/internal/node"
	"millpond.dev/millpond/internal/nodeproto/nodev1"
	"millpond.dev/millpond/internal/sqlite"
)

// This file lends the verbs of disks, networks and galleries to those of virtual
// machines, which name what they need.

// channels sends a channel to the owner of the machine that opened it.
type channels struct {
	nodes    *node.Service
	machines *machine.Service
}

func (c channels) AuthenticateNode(ctx context.Context, id millpond.NodeID, generation int, token string) error {
	if id.IsVM() {
		return c.machines.AuthenticateNode(ctx, id, generation, token)
	}
	return c.nodes.AuthenticateNode(ctx, id, generation, token)
}

func (c channels) Serve(ctx context.Context, id millpond.NodeID, generation int, client nodev1.AgentClient, said *nodev1.HelloResponse) error {
	if id.IsVM() {
		return c.machines.Serve(ctx, id, generation, client, said)
	}
	return c.nodes.Serve(ctx, id, generation, client, said)
}

type machineDisks struct{ *compute.Service }

func (d machineDisks) Delete(ctx context.Context, id millpond.ResourceID) (bool, error) {
	return d.DeleteDisk(ctx, id)
}

// guests holds the guests of machines still while a disk of theirs is captured.
// The verbs of machines are made after those of disks.
type guests struct{ s *server }

func (g guests) Still(ctx context.Context, vm millpond.ResourceID) (thaw func() error, err error) {
	return g.s.machines.Still(ctx, vm)
}

type machineCards struct{ *network.Service }

func (n machineCards) Delete(ctx context.Context, id millpond.ResourceID) (bool, error) {
	return n.DeleteInterface(ctx, id)
}

// Card is a network interface in the launcher's words. Only TCP is led to a
// machine.
func (n machineCards) Card(ctx context.Context, id millpond.ResourceID) (launch.Card, error) {
	c, err := n.Service.Card(ctx, id)
	if err != nil {
		return launch.Card{}, err
	}
	out := launch.Card{MAC: c.MAC, Network: c.Prefix, Address: c.Private, LAN: c.LAN, Filters: c.Filters}
	if !c.Public.IsValid() {
		return out, nil
	}
	for _, p := range network.Forwards(c.TCP) {
		out.Ports = append(out.Ports, launch.Port{Host: netip.AddrPortFrom(c.Public, p), Guest: p})
	}
	return out, nil
}

// nodeCards are the places of nodes in subnets.
type nodeCards struct{ *network.Service }

func (n nodeCards) NodePlace(tx *sqlite.Tx, node millpond.NodeID) (launch.Card, bool, error) {
	p, ok, err := n.Service.NodePlace(tx, node)
	return launch.Card{Network: p.Prefix, Address: p.Address, LAN: p.LAN, Filters: p.Filters}, ok, err
}

type machineImages struct {
	*gallery.Service
	server *server
}

// Usable applies the galleries' rules to a machine, or preflight's to one from a
// managed image.
func (m machineImages) Usable(ctx context.Context, image millpond.ResourceID, skus []string) ([]millpond.Finding, error) {
	if image.Is(millpond.TypeImage) {
		return m.Service.UsableImage(ctx, image)
	}
	return m.Service.Usable(ctx, image, gallery.Use{SKUs: skus, Boots: true})
}

// Bases lists the built base images with the time of each.
func (m machineImages) Bases(ctx context.Context) ([]machine.BaseImage, error) {
	all, err := m.server.baseImages(ctx)
	if err != nil {
		return nil, err
	}
	var out []machine.BaseImage
	for _, b := range all {
		i := machine.BaseImage{Name: baseName(b), Size: b.Size, HyperV: b.HyperV, Release: b.Release}
		if d, err := baseimage.ReadDescription(b.Path); err == nil {
			i.Built = d.BuiltAt
		}
		out = append(out, i)
	}
	return out, nil
}

// baseName tells built images of one recipe apart: the tiny one is built for
// several releases.
func baseName(b gallery.BaseImage) string {
	return strings.TrimSuffix(filepath.Base(b.Path), ".raw")
}

// baseFile finds the file of a built base image.
func (s *server) baseFile(ctx context.Context, name string) (compute.Base, error) {
	all, err := s.baseImages(ctx)
	if err != nil {
		return compute.Base{}, err
	}
	i := slices.IndexFunc(all, func(b gallery.BaseImage) bool { return strings.EqualFold(baseName(b), name) })
	if i < 0 {
		return compute.Base{}, millpond.Errorf(millpond.NotFound, "PlatformImageNotFound", "The base image %s has gone. Build it again with: millpond image build %s", name, name)
	}
	return compute.Base{File: all[i].Path, Size: all[i].Size, HyperV: all[i].HyperV}, nil
}
