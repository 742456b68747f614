package execproxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"millpond.dev/millpond/internal/atomicfile"
)

// SignInAz makes dir a configuration folder of az that is signed in as who, in
// the files that `az login --service-principal` would leave behind; az 2.30 and
// later read them. It starts no program and asks no server. What is in the
// folder already, such as defaults that the user set, stays.
//
// installation is a GUID for az's own use, taken when the folder is new.
func SignInAz(dir string, who Identity, installation string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := addProfile(filepath.Join(dir, "azureProfile.json"), who, installation); err != nil {
		return err
	}
	if err := addSecret(filepath.Join(dir, "service_principal_entries.json"), who); err != nil {
		return err
	}
	for name, content := range map[string]string{
		// No telemetry, no survey, no look-ups of newer versions: none of their
		// hosts is served, and each would cost a refused connection.
		"config":        "[core]\ncollect_telemetry = no\nsurvey_message = no\nlogin_experience_v2 = off\n\n[auto-upgrade]\nenable = no\nprompt = no\n\n[cloud]\nname = AzureCloud\n",
		"clouds.config": "[AzureCloud]\nsubscription = " + who.Subscription + "\n",
	} {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			if err := atomicfile.Write(file, []byte(content), 0o600); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	return nil
}

type object = map[string]any

// addProfile puts the subscription into az's list of accounts. It becomes the
// active one if none is.
func addProfile(file string, who Identity, installation string) error {
	profile := object{}
	if err := readJSON(file, &profile); err != nil {
		return err
	}
	if profile["installationId"] == nil {
		profile["installationId"] = installation
	}
	accounts, _ := profile["subscriptions"].([]any)
	hasDefault := false
	for _, a := range accounts {
		account, _ := a.(object)
		user, _ := account["user"].(object)
		if text(account["id"]) == who.Subscription && text(account["tenantId"]) == who.Tenant && text(user["name"]) == who.Client {
			return nil
		}
		isDefault, _ := account["isDefault"].(bool)
		hasDefault = hasDefault || isDefault
	}
	name := who.SubscriptionName
	if name == "" {
		name = who.Subscription
	}
	profile["subscriptions"] = append(accounts, object{
		"id": who.Subscription, "name": name, "state": "Enabled", "isDefault": !hasDefault, "tenantId": who.Tenant, "homeTenantId": who.Tenant,
		"environmentName": "AzureCloud", "managedByTenants": []any{}, "user": object{"name": who.Client, "type": "servicePrincipal"},
	})
	return writeJSON(file, profile)
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// addSecret puts the secret where az keeps those of service principals.
func addSecret(file string, who Identity) error {
	var entries []object
	if err := readJSON(file, &entries); err != nil {
		return err
	}
	kept := []object{}
	for _, e := range entries {
		if text(e["client_id"]) == who.Client && text(e["tenant"]) == who.Tenant {
			if text(e["client_secret"]) == who.Secret {
				return nil
			}
			continue
		}
		kept = append(kept, e)
	}
	return writeJSON(file, append(kept, object{"client_id": who.Client, "tenant": who.Tenant, "client_secret": who.Secret}))
}

// readJSON leaves v as it is when there is no file. az may begin its files with
// a byte order mark.
func readJSON(file string, v any) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if strings.TrimSpace(string(data)) == "" {
		return nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s is damaged; remove it and run again: %w", file, err)
	}
	return nil
}

func writeJSON(file string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(file, data, 0o600)
}
