package batchapi

import (
	"net/http"
	"sort"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

func (e *Edge) listSupportedImages(w http.ResponseWriter, r *request) error {
	return listOf(e, w, r, e.lists.images, maxPage, func(q millpond.ListQuery[SupportedImage]) ([]SupportedImage, string, error) {
		all, err := e.SupportedImages(r.Context())
		if err != nil {
			return nil, "", err
		}
		rows, next := onePage(all, q, imageKey)
		return rows, next, nil
	}, func(i SupportedImage) entity {
		return entity{model: azbatch.SupportedImage{ImageReference: &azbatch.ImageReference{Publisher: ptr(i.Publisher), Offer: ptr(i.Offer), SKU: ptr(i.SKU), Version: ptr(imageVersion(i))},
			NodeAgentSKUID: ptr(i.NodeAgentSKU), OSType: ptr(azbatch.OSType(i.OSType)), VerificationType: ptr(azbatch.ImageVerificationType(verification(i))),
			Capabilities: i.Capabilities, BatchSupportEndOfLife: at(i.EndOfLife)}}
	})
}

func imageVersion(i SupportedImage) string {
	if i.Version == "" {
		return "latest"
	}
	return i.Version
}

func imageKey(i SupportedImage) string {
	return i.Publisher + "\x00" + i.Offer + "\x00" + i.SKU + "\x00" + i.Version + "\x00" + i.NodeAgentSKU
}

// nodeAgent is the answer of versions before 2019-06-01.9.0.
type nodeAgent struct {
	ID     string           `json:"id"`
	OSType string           `json:"osType"`
	Images []imageOfASystem `json:"verifiedImageReferences"`
}

type imageOfASystem struct {
	Publisher string `json:"publisher"`
	Offer     string `json:"offer"`
	SKU       string `json:"sku"`
	Version   string `json:"version"`
}

// listNodeAgents is what supportedimages was called before 2019-06-01.9.0: the
// same catalogue by node agent.
func (e *Edge) listNodeAgents(w http.ResponseWriter, r *request) error {
	all, err := e.SupportedImages(r.Context())
	if err != nil {
		return err
	}
	byID := map[string]*nodeAgent{}
	var ids []string
	for _, i := range all {
		a := byID[i.NodeAgentSKU]
		if a == nil {
			a = &nodeAgent{ID: i.NodeAgentSKU, OSType: i.OSType}
			byID[i.NodeAgentSKU] = a
			ids = append(ids, i.NodeAgentSKU)
		}
		a.Images = append(a.Images, imageOfASystem{i.Publisher, i.Offer, i.SKU, imageVersion(i)})
	}
	sort.Strings(ids)
	var value []any
	for _, id := range ids {
		value = append(value, byID[id])
	}
	return e.writePage(w, r, "nodeagentskus", value, "")
}

// onePage is one page of a list that is held in memory whole.
func onePage[T any](all []T, q millpond.ListQuery[T], key func(T) string) (rows []T, next string) {
	sorted := append([]T(nil), all...)
	sort.SliceStable(sorted, func(i, j int) bool { return key(sorted[i]) < key(sorted[j]) })
	for _, v := range sorted {
		if q.After != "" && key(v) <= q.After || !q.Wants(v) {
			continue
		}
		if len(rows) == q.PageSize() {
			return rows, key(rows[len(rows)-1])
		}
		rows = append(rows, v)
	}
	return rows, ""
}
