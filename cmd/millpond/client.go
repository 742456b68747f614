package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"millpond.dev/millpond/internal/datadir"
	"millpond.dev/millpond/internal/directory"
)

// client talks to the running server of a data folder as its administrator,
// through the same API as everybody.
type client struct {
	http  *http.Client
	data  datadir.Dir
	base  string
	creds directory.Credentials
	// tokens by resource
	tokens map[string]string
}

// dial finds the running server; its error says how to start one.
func dial(data datadir.Dir) (*client, error) {
	addr, err := endpoint(data)
	if err != nil {
		return nil, err
	}
	creds, err := directory.ReadCredentials(data.Credentials())
	if err != nil {
		return nil, fmt.Errorf("read the administrator's credentials: %w", err)
	}
	c := &client{data: data, base: "https://" + addr, creds: creds, tokens: map[string]string{}}
	pem, err := os.ReadFile(data.CA())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", data.CA())
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	c.http = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	return c, nil
}

func (c *client) token(ctx context.Context, resource string) (string, error) {
	if t, ok := c.tokens[resource]; ok {
		return t, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.creds.ClientID}, "client_secret": {c.creds.ClientSecret}, "scope": {resource + "/.default"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/"+c.creds.TenantID+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := c.do(req, &answer); err != nil {
		return "", fmt.Errorf("sign in as the administrator: %w", err)
	}
	c.tokens[resource] = answer.AccessToken
	return answer.AccessToken, nil
}

// request makes a request of a path of the service, or of an absolute link that the
// service gave, with the administrator's token for a resource.
func (c *client) request(ctx context.Context, method, resource, path string, body io.Reader) (*http.Request, error) {
	token, err := c.token(ctx, resource)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(path, "https://") {
		path = c.base + path
	}
	req, err := http.NewRequestWithContext(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return req, nil
}

// get reads what a path answers.
func (c *client) get(ctx context.Context, resource, path string, into any) error {
	req, err := c.request(ctx, http.MethodGet, resource, path, nil)
	if err != nil {
		return err
	}
	return c.do(req, into)
}

func (c *client) do(req *http.Request, into any) error {
	resp, err := c.http.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return silent(c.data, req.URL.Host, err)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return &apiError{Status: resp.StatusCode, Text: errorText(body)}
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

// apiError is a refusal by the server.
type apiError struct {
	Status int
	Text   string
}

func (e *apiError) Error() string { return fmt.Sprintf("%d: %s", e.Status, e.Text) }

// errorText finds the sentence in any of the error shapes that Azure uses.
func errorText(body []byte) string {
	var e struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
		Code        string          `json:"code"`
		Message     json.RawMessage `json:"message"`
	}
	if json.Unmarshal(body, &e) != nil {
		return string(bytes.TrimSpace(body))
	}
	if e.Description != "" {
		return e.Description
	}
	var nested struct{ Code, Message string }
	if json.Unmarshal(e.Error, &nested) == nil && nested.Code != "" {
		return nested.Code + ": " + nested.Message
	}
	var lang struct{ Value string }
	if json.Unmarshal(e.Message, &lang) == nil && lang.Value != "" {
		return e.Code + ": " + lang.Value
	}
	return string(bytes.TrimSpace(body))
}
