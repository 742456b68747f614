package imagehost

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/image"
	"millpond.dev/millpond/internal/image/cache"
	"millpond.dev/millpond/internal/image/layer"
	"millpond.dev/millpond/internal/process"
)

// Health says who answers.
type Health struct {
	Version string     `json:"version"`
	Process process.ID `json:"process"`
	Begun   time.Time  `json:"begun"`
	// CacheBytes is the bound that it was started with.
	CacheBytes int64 `json:"cacheBytes"`
}

// Stats are the cache's counters and the number of clients.
type Stats struct {
	cache.Stats
	Exports int `json:"exports"`
	Clients int `json:"clients"`
}

// problem is the body of an error.
type problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// maxBody bounds a request; the socket is the owner's alone, so this only catches
// mistakes.
const maxBody = 1 << 20

// routes is the control API.
func (h *host) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/health", func(w http.ResponseWriter, r *http.Request) {
		answer(w, Health{h.cfg.Version, h.self, h.begun, h.cfg.CacheBytes}, nil)
	})
	mux.HandleFunc("GET /v1/stats", func(w http.ResponseWriter, r *http.Request) { answer(w, h.stats(), nil) })
	mux.HandleFunc("GET /v1/exports", func(w http.ResponseWriter, r *http.Request) {
		list := []ExportStatus{}
		for _, name := range h.Names() {
			if st, err := h.status(name); err == nil {
				list = append(list, st)
			}
		}
		answer(w, list, nil)
	})
	mux.HandleFunc("GET /v1/exports/{name}", func(w http.ResponseWriter, r *http.Request) {
		st, err := h.status(r.PathValue("name"))
		answer(w, st, err)
	})
	mux.HandleFunc("GET /v1/exports/{name}/touched", func(w http.ResponseWriter, r *http.Request) {
		touched := h.cache.Touched(image.ContentID(r.PathValue("name")))
		slices.Sort(touched)
		answer(w, touched, nil)
	})
	mux.HandleFunc("PUT /v1/exports/{name}", func(w http.ResponseWriter, r *http.Request) {
		var e Export
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&e); err != nil {
			answer(w, nil, millpond.Errorf(millpond.Invalid, "InvalidExport", "The export cannot be read: %v.", err))
			return
		}
		if e.Name != r.PathValue("name") {
			answer(w, nil, millpond.Errorf(millpond.Invalid, "InvalidExport", "The export is called %q in the body and %q in the path.", e.Name, r.PathValue("name")))
			return
		}
		st, err := h.register(r, e)
		answer(w, st, err)
	})
	mux.HandleFunc("DELETE /v1/exports/{name}", func(w http.ResponseWriter, r *http.Request) {
		h.unregister(r.PathValue("name"))
		answer(w, struct{}{}, nil)
	})
	mux.HandleFunc("POST /v1/exports/{name}/map", func(w http.ResponseWriter, r *http.Request) {
		m, err := h.mapContent(r.Context(), r.PathValue("name"))
		answer(w, m, err)
	})
	mux.HandleFunc("POST /v1/exports/{name}/map/{area}/grow", func(w http.ResponseWriter, r *http.Request) {
		area, err := strconv.Atoi(r.PathValue("area"))
		if err != nil {
			answer(w, nil, millpond.Errorf(millpond.Invalid, "InvalidMap", "%q is not the number of a map.", r.PathValue("area")))
			return
		}
		m, err := h.cache.Grow(r.Context(), image.ContentID(r.PathValue("name")), area, growPatience)
		answer(w, m, err)
	})
	h.diskRoutes(mux)
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		if n := h.stats().Clients; n > 0 && r.URL.Query().Get("force") != "true" {
			answer(w, nil, millpond.Errorf(millpond.Conflict, "ExportsInUse", "%d machines read their disks through this image host. End them first.", n))
			return
		}
		answer(w, struct{}{}, nil)
		h.stop()
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.spoke()
		mux.ServeHTTP(w, r)
	})
}

func answer(w http.ResponseWriter, body any, err error) {
	status := http.StatusOK
	if err != nil {
		e := asError(err)
		switch e.Kind {
		case millpond.Invalid:
			status = http.StatusBadRequest
		case millpond.NotFound:
			status = http.StatusNotFound
		case millpond.Conflict:
			status = http.StatusConflict
		default:
			status = http.StatusServiceUnavailable
		}
		body = problem{e.Code, e.Message}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that has gone needs no answer.
	_ = json.NewEncoder(w).Encode(body)
}

// register serves an export from now on, also after a restart. The content's
// manifest is read at once, so that an image that nobody has is refused here and
// not inside of QEMU.
func (h *host) register(r *http.Request, e Export) (ExportStatus, error) {
	if err := e.check(); err != nil {
		return ExportStatus{}, millpond.Errorf(millpond.Invalid, "InvalidExport", "%s.", err)
	}
	if e.Kind == Content {
		stores, err := h.openStores(r.Context(), image.ContentID(e.Name), e.Stores)
		if err == nil {
			err = h.cache.Prepare(r.Context(), image.ContentID(e.Name), stores)
		}
		if err != nil {
			return ExportStatus{}, err
		}
	}
	x, err := h.enter(e)
	if err == nil && e.Kind == Disk {
		if err = h.openDisk(r.Context(), x); err != nil {
			var k *layer.Disk
			h.mu.Lock()
			if x.clients == 0 {
				k = h.remove(x)
			}
			h.mu.Unlock()
			h.closeDisk(k)
		}
	}
	if err != nil {
		return ExportStatus{}, err
	}
	return h.status(e.Name)
}

// enter adds an export, or gives one other stores, and writes it down. What could
// not be written is not served either: the next process would not know of it, and
// the next registration would find nothing new to write.
func (h *host) enter(e Export) (*export, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x := h.exports[e.Name]
	if x == nil {
		x = &export{Export: e}
		h.exports[e.Name] = x
		if err := h.save(); err != nil {
			delete(h.exports, e.Name)
			return nil, err
		}
		return x, nil
	}
	old := x.Export
	x.Export = e
	if !slices.Equal(old.Stores, e.Stores) {
		if err := h.save(); err != nil {
			x.Export = old
			return nil, err
		}
	}
	x.leaving = false
	return x, nil
}

// growPatience is how long a larger map waits for what a boot reads. Until then the
// machine reads through us what its first map has not.
const growPatience = 3 * time.Second

// mapContent makes a map of a content that is served.
func (h *host) mapContent(ctx context.Context, name string) (cache.Mapping, error) {
	h.mu.Lock()
	e := h.exports[name]
	var places []Place
	if e != nil {
		places = e.Stores
	}
	h.mu.Unlock()
	if e == nil || e.Kind != Content {
		return cache.Mapping{}, millpond.Errorf(millpond.NotFound, "ExportNotFound", "The image host serves no content %q.", name)
	}
	stores, err := h.openStores(ctx, image.ContentID(name), places)
	if err != nil {
		return cache.Mapping{}, err
	}
	return h.cache.Map(ctx, image.ContentID(name), stores)
}

// unregister ends an export, when its last client has gone.
func (h *host) unregister(name string) {
	h.mu.Lock()
	var k *layer.Disk
	if e := h.exports[name]; e != nil {
		e.leaving = true
		if e.clients == 0 {
			k = h.remove(e)
		}
	}
	h.mu.Unlock()
	h.closeDisk(k)
}

func (h *host) status(name string) (ExportStatus, error) {
	h.mu.Lock()
	e := h.exports[name]
	var st ExportStatus
	if e != nil {
		st.Export, st.Clients = e.Export, e.clients
	}
	h.mu.Unlock()
	if e == nil {
		return st, millpond.Errorf(millpond.NotFound, "ExportNotFound", "The image host serves no export %q.", name)
	}
	if read, ok := h.cache.ContentStats(image.ContentID(name)); ok {
		st.Read = &read
	}
	return st, nil
}

func (h *host) stats() Stats {
	s := Stats{Stats: h.cache.Stats()}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Exports = len(h.exports)
	for _, e := range h.exports {
		s.Clients += e.clients
	}
	slices.SortFunc(s.Stores, func(a, b cache.StoreStats) int { return strings.Compare(a.Name, b.Name) })
	return s
}
