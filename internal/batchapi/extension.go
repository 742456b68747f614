package batchapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

// wholeSettings is the member under which a checked body carries the settings of
// an extension as one JSON text: the SDK's model takes texts only.
const wholeSettings = ""

// extensionsRule is a pool's VM extensions. Which there are, and what their
// settings must be, is the verbs' business.
func extensionsRule() *rule {
	return many(object(map[string]*rule{
		"name": text(80).needed(), "publisher": text(128).needed(), "type": text(128).needed(), "typeHandlerVersion": text(32),
		"autoUpgradeMinorVersion": truth(), "enableAutomaticUpgrade": truth(), "provisionAfterExtensions": many(text(80), millpond.MaxPoolExtensions),
		"settings": {kind: kindWhole, high: 64 << 10}, "protectedSettings": {kind: kindWhole, high: 64 << 10},
	}), millpond.MaxPoolExtensions)
}

// walkWhole takes an object of the user's own as it is.
func walkWhole(r *rule, v any, path string) (any, error) {
	if s, ok := v.(string); ok {
		// Some clients send the text of an object.
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		var m map[string]any
		if d.Decode(&m) == nil && m != nil {
			v = m
		}
	}
	if _, ok := v.(map[string]any); !ok {
		return nil, invalid(path, "(not shown)", "An object is expected.")
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > r.high {
		return nil, invalid(path, "(not shown)", fmt.Sprintf("It is longer than %d bytes.", r.high))
	}
	return map[string]any{wholeSettings: string(b)}, nil
}

func extensions(in []azbatch.VMExtension) (out []millpond.PoolExtension) {
	whole := func(m map[string]*string) json.RawMessage {
		if s := text0(m[wholeSettings]); s != "" && s != "{}" {
			return json.RawMessage(s)
		}
		return nil
	}
	for _, e := range in {
		out = append(out, millpond.PoolExtension{Name: text0(e.Name), Publisher: text0(e.Publisher), Type: text0(e.Type), Version: text0(e.TypeHandlerVersion),
			AutoUpgradeMinor: truth0(e.AutoUpgradeMinorVersion), AutoUpgrade: truth0(e.EnableAutomaticUpgrade), Settings: whole(e.Settings), Protected: whole(e.ProtectedSettings), After: e.ProvisionAfterExtensions})
	}
	return out
}

// extensionModel is an extension as it is shown: its settings whole, and never
// what is protected.
func extensionModel(e millpond.PoolExtension) map[string]any {
	m := map[string]any{"name": e.Name, "publisher": e.Publisher, "type": e.Type, "typeHandlerVersion": e.Version,
		"autoUpgradeMinorVersion": e.AutoUpgradeMinor, "enableAutomaticUpgrade": e.AutoUpgrade}
	if len(e.Settings) > 0 {
		m["settings"] = e.Settings
	}
	if len(e.After) > 0 {
		m["provisionAfterExtensions"] = e.After
	}
	return m
}

// narrowExtension is extensionModel for the SDK's model, whose settings are texts:
// others are left out. Jobs show the pools that are made for them so.
func narrowExtension(e millpond.PoolExtension) azbatch.VMExtension {
	v := azbatch.VMExtension{Name: ptr(e.Name), Publisher: ptr(e.Publisher), Type: ptr(e.Type), TypeHandlerVersion: some(e.Version),
		AutoUpgradeMinorVersion: ptr(e.AutoUpgradeMinor), EnableAutomaticUpgrade: ptr(e.AutoUpgrade), ProvisionAfterExtensions: e.After}
	var all map[string]any
	_ = json.Unmarshal(e.Settings, &all) // without settings there are none
	for name, value := range all {
		if s, ok := value.(string); ok {
			if v.Settings == nil {
				v.Settings = map[string]*string{}
			}
			v.Settings[name] = &s
		}
	}
	return v
}

func extensionModels(list []millpond.PoolExtension) []any {
	var out []any
	for _, e := range list {
		out = append(out, extensionModel(e))
	}
	return out
}

// machineWhole is a pool's virtualMachineConfiguration with its extensions, for
// which the SDK's model is too narrow.
func machineWhole(s millpond.PoolSpec) (map[string]any, error) {
	b, err := json.Marshal(machineModel(s))
	if err != nil {
		return nil, err
	}
	m := map[string]any{}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	m["extensions"] = extensionModels(s.Extensions)
	return m, nil
}

// nodeExtension is one extension of a node: what its pool asks for, and how it went.
type nodeExtension struct {
	asked millpond.PoolExtension
	went  *millpond.NodeExtension // nil before its turn
}

// nodeExtensions are those of a node, by name.
func (e *Edge) nodeExtensions(r *request) ([]nodeExtension, error) {
	n, err := e.Nodes.Get(r.Context(), r.acct.Name, r.pool(), r.node())
	if err != nil {
		return nil, err
	}
	p, err := e.Pools.Get(r.Context(), r.acct.Name, r.pool())
	if err != nil {
		return nil, err
	}
	var out []nodeExtension
	for _, asked := range p.Spec.Extensions {
		x := nodeExtension{asked: asked}
		for i, w := range n.Extensions {
			if w.Name == asked.Name && w.Generation == n.Generation {
				x.went = &n.Extensions[i]
			}
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b nodeExtension) int { return cmp.Compare(a.asked.Name, b.asked.Name) })
	return out, nil
}

// nodeExtensionEntity spells states and outcomes as Azure's machines do.
func nodeExtensionEntity(x nodeExtension) entity {
	state, code, display, level, message := "Creating", "ProvisioningState/transitioning", "Transitioning", "Info", "Execution in progress."
	var at time.Time
	if w := x.went; w != nil {
		output := fmt.Sprintf("\n[stdout]\n%s\n[stderr]\n%s", w.Stdout, w.Stderr)
		at = w.Ended
		switch w.State {
		case millpond.CommandSucceeded:
			state, code, display, message = "Succeeded", "ProvisioningState/succeeded", "Provisioning succeeded", "Enable succeeded: "+output
		case millpond.CommandFailed:
			state, code, display, level = "Failed", fmt.Sprintf("ProvisioningState/failed/%d", w.Exit), "Provisioning failed", "Error"
			message = "Enable failed: " + w.Message + output
		default:
			at = w.Started
		}
	}
	status := map[string]any{"code": code, "displayStatus": display, "level": level, "message": message}
	if !at.IsZero() {
		status["time"] = at.UTC().Format(time.RFC3339Nano)
	}
	return entity{model: map[string]any{"provisioningState": state, "vmExtension": extensionModel(x.asked),
		"instanceView": map[string]any{"name": x.asked.Name, "statuses": []any{status}}}}
}

func (e *Edge) listExtensions(w http.ResponseWriter, r *request) error {
	return listOf(e, w, r, e.lists.extensions, maxPage, func(q millpond.ListQuery[nodeExtension]) ([]nodeExtension, string, error) {
		all, err := e.nodeExtensions(r)
		if err != nil {
			return nil, "", err
		}
		return q.Page(func(x nodeExtension) string { return x.asked.Name }, func(after string, limit int) ([]nodeExtension, error) {
			i, _ := slices.BinarySearchFunc(all, after, func(x nodeExtension, name string) int {
				if x.asked.Name <= name {
					return -1
				}
				return 1
			})
			return all[i:min(len(all), i+limit)], nil
		})
	}, nodeExtensionEntity)
}

func (e *Edge) getExtension(w http.ResponseWriter, r *request) error {
	all, err := e.nodeExtensions(r)
	if err != nil {
		return err
	}
	for _, x := range all {
		if strings.EqualFold(x.asked.Name, r.Param("extensionName")) {
			return e.writeEntity(w, r, "extensions", e.lists.extensions.members, nodeExtensionEntity(x))
		}
	}
	return millpond.Errorf(millpond.NotFound, "ResourceNotFound", "The node has no extension of this name. The extensions of its pool are in virtualMachineConfiguration.")
}
