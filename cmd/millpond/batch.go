package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

const (
	armResource   = "https://management.core.windows.net/"
	batchResource = "https://batch.core.windows.net/"
	armVersion    = "api-version=2024-07-01"
	batchVersion  = "api-version=2024-07-01.20.0"
)

type accountView struct {
	Name       string `json:"name"`
	Location   string `json:"location"`
	Properties struct {
		AccountEndpoint string `json:"accountEndpoint"`
	} `json:"properties"`
}

type page[T any] struct {
	Value []T    `json:"value"`
	Next  string `json:"odata.nextLink"`
	NextR string `json:"nextLink"`
}

func list[T any](ctx context.Context, c *client, resource, path string) ([]T, error) {
	var all []T
	for path != "" {
		var p page[T]
		if err := c.get(ctx, resource, path, &p); err != nil {
			return nil, err
		}
		all = append(all, p.Value...)
		path = p.Next + p.NextR
	}
	return all, nil
}

// accounts lists the Batch accounts of the administrator's subscription.
func (c *client) accounts(ctx context.Context) ([]accountView, error) {
	return list[accountView](ctx, c, armResource, "/subscriptions/"+c.creds.SubscriptionID+"/providers/Microsoft.Batch/batchAccounts?"+armVersion)
}

// account finds the address of an account; of the only one if name is empty. It is
// a path of the server, which stays when the next server listens elsewhere.
func (c *client) account(ctx context.Context, name string) (string, error) {
	all, err := c.accounts(ctx)
	if err != nil {
		return "", err
	}
	for _, a := range all {
		if strings.EqualFold(a.Name, name) || name == "" && len(all) == 1 {
			return strings.TrimPrefix(a.base(), c.base), nil
		}
	}
	if name != "" {
		return "", fmt.Errorf("there is no Batch account %q here", name)
	}
	return "", fmt.Errorf("there are %d Batch accounts here; say which with --account", len(all))
}

// base is where an account answers.
func (a accountView) base() string { return "https://" + a.Properties.AccountEndpoint }

// thing is a job or a pool that a command names.
type thing struct {
	*client
	// endpoint is the path of its account, path its own.
	endpoint, path string
	id             string
}

// job dials the server for a job that is named as ACCOUNT/JOB.
func (g *Globals) job(ctx context.Context, name string) (thing, error) {
	return g.thing(ctx, name, "jobs", "JOB")
}

// pool dials the server for a pool that is named as ACCOUNT/POOL.
func (g *Globals) pool(ctx context.Context, name string) (thing, error) {
	return g.thing(ctx, name, "pools", "POOL")
}

func (g *Globals) thing(ctx context.Context, name, collection, kind string) (thing, error) {
	owner, id, ok := strings.Cut(name, "/")
	if !ok || owner == "" || id == "" {
		return thing{}, fmt.Errorf("%q is not of the form ACCOUNT/%s", name, kind)
	}
	c, err := dial(g.Data)
	if err != nil {
		return thing{}, err
	}
	base, err := c.account(ctx, owner)
	return thing{client: c, endpoint: base, path: base + "/" + collection + "/" + url.PathEscape(id), id: id}, err
}

// batch makes a request of the Batch service with a JSON body, if it is not nil.
func (c *client) batch(ctx context.Context, method, path string, body, into any) error {
	var text io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		text = bytes.NewReader(b)
	}
	req, err := c.request(ctx, method, batchResource, path, text)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json; odata=minimalmetadata")
	return c.do(req, into)
}

// open begins a GET whose answer is read as it comes.
func (c *client) open(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	req, err := c.request(ctx, http.MethodGet, batchResource, path, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	// The client's own timeout is for answers that end.
	resp, err := (&http.Client{Transport: c.http.Transport}).Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		return nil, &apiError{Status: resp.StatusCode, Text: errorText(body)}
	}
	return resp, nil
}
