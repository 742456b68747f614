package layer

import (
	"encoding/json"
	"fmt"

	"millpond.dev/millpond/internal/image"
)

// Ref names the base content of a disk and the store that it was put in.
type Ref struct {
	Store   string          `json:"store"`
	Content image.ContentID `json:"content"`
	Size    int64           `json:"size"`
}

// stateFile describes a disk. Everything else in its folder that it does not
// name is left over.
const stateFile = "disk.json"

type state struct {
	Version int          `json:"version"`
	Size    int64        `json:"size"`
	Base    *Ref         `json:"base,omitempty"`
	Layers  []layerState `json:"layers"` // the bottom first
}

type layerState struct {
	N int `json:"n"`
	// Size is the disk's size when the layer was frozen; the top's is the disk's.
	Size int64 `json:"size"`
	// Whole layers own every block and have no bitmap.
	Whole bool `json:"whole,omitempty"`
}

func rawName(n int) string  { return fmt.Sprintf("%d.raw", n) }
func mapName(n int) string  { return fmt.Sprintf("%d.map", n) }
func liveName(n int) string { return fmt.Sprintf("%d.live", n) }

// parseState reads a state file and checks it in full.
func parseState(b []byte) (state, error) {
	var s state
	bad := func(format string, args ...any) (state, error) {
		return state{}, fmt.Errorf("the disk's description is damaged: "+format, args...)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return bad("%v", err)
	}
	if s.Version != 1 {
		return bad("version %d is not known", s.Version)
	}
	if !validSize(s.Size) {
		return bad("a size of %d bytes", s.Size)
	}
	if s.Base != nil && (!s.Base.Content.Valid() || !validSize(s.Base.Size) || s.Base.Size > s.Size) {
		return bad("the base %q of %d bytes", s.Base.Content, s.Base.Size)
	}
	if len(s.Layers) == 0 || len(s.Layers) > maxLayers {
		return bad("%d layers", len(s.Layers))
	}
	last, size := 0, int64(0)
	for i, l := range s.Layers {
		if l.N <= last || l.N > 1<<30 || l.Size < size || l.Size > s.Size || !validSize(l.Size) || l.Whole && (i > 0 || s.Base != nil) {
			return bad("layer %d", l.N)
		}
		last, size = l.N, l.Size
	}
	if size != s.Size {
		return bad("the top layer has %d of %d bytes", size, s.Size)
	}
	return s, nil
}

func (s state) write(dir folder) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return dir.Replace(stateFile, b)
}

// names are the files that the state needs.
func (s state) names() map[string]bool {
	out := map[string]bool{stateFile: true, lockFile: true}
	for _, l := range s.Layers {
		out[rawName(l.N)] = true
		if !l.Whole {
			out[mapName(l.N)] = true
		}
	}
	if top := s.Layers[len(s.Layers)-1]; !top.Whole {
		out[liveName(top.N)] = true
	}
	return out
}
