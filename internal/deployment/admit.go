package deployment

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/template"
)

// Request is a PUT or a validation, as decoded by the edge.
type Request struct {
	Caller       millpond.Caller
	Subscription string
	Group        string // scope of the group; empty at a subscription
	Name         string
	Location     string
	Tags         map[string]string
	Mode         string
	Template     json.RawMessage
	Parameters   map[string]any
}

// id is the deployment's id.
func (r *Request) id() string {
	scope := "/subscriptions/" + r.Subscription
	if r.Group != "" {
		scope = r.Group
	}
	return scope + "/providers/" + millpond.TypeDeployment + "/" + r.Name
}

var nameRule = regexp.MustCompile(`^[-\w._()]{1,64}$`)

// Plan is a request that has passed every check.
type Plan struct {
	Deployment *millpond.Deployment
	Steps      []*millpond.DeploymentStep
}

// Validate checks a template, its parameters and, by a dry run, each of its
// resources. It changes nothing.
func (s *Service) Validate(ctx context.Context, r Request) (*Plan, error) {
	if !nameRule.MatchString(r.Name) || strings.HasSuffix(r.Name, ".") {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidDeploymentName", "The deployment name '%s' is not valid: 1 to 64 letters, digits, '_', '-', '.', '(' or ')', not ending in '.'.", r.Name)
	}
	switch {
	case r.Mode == "" || strings.EqualFold(r.Mode, "Incremental"):
	case strings.EqualFold(r.Mode, "Complete"):
		return nil, millpond.Errorf(millpond.Unsupported, "NotSupported", "The deployment mode Complete, which deletes what the template does not name, is not supported. Use Incremental, and delete by az resource delete.")
	default:
		return nil, millpond.Errorf(millpond.Invalid, "InvalidDeploymentMode", "The deployment mode '%s' is not valid. Use Incremental.", r.Mode)
	}
	if r.Group == "" {
		if r.Location == "" {
			return nil, millpond.Errorf(millpond.Invalid, "LocationRequired", "A deployment at a subscription needs a location.")
		}
		if _, err := s.Resources.Region(r.Location); err != nil {
			return nil, err
		}
	}
	if len(r.Template) == 0 {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidDeployment", "The deployment has no template. Give properties.template.")
	}
	t, err := template.Parse(r.Template)
	if err != nil {
		return nil, err
	}
	d := &millpond.Deployment{ID: r.id(), Subscription: r.Subscription, Group: r.Group, Name: r.Name, Location: millpond.NormalizeRegion(r.Location), Tags: r.Tags, Template: r.Template,
		Caller: r.Caller, Correlation: newID(), Operation: newID(), State: millpond.DeploymentRunning, Started: s.Clock.Now(), Hash: hash(r.Template)}
	env, err := s.env(ctx, d)
	if err != nil {
		return nil, err
	}
	values, err := t.Resolve(r.Parameters, env)
	if err != nil {
		return nil, err
	}
	if d.Values, err = json.Marshal(values); err != nil {
		return nil, err
	}
	if d.Shown, err = json.Marshal(t.Shown(values)); err != nil {
		return nil, err
	}
	p, err := t.Expand(values, env)
	if err != nil {
		return nil, err
	}
	if err := s.dryRun(ctx, d, p); err != nil {
		return nil, err
	}
	return &Plan{d, steps(d, p)}, nil
}

// dryRun asks the Resource Manager about each resource. All refusals are told
// at once.
func (s *Service) dryRun(ctx context.Context, d *millpond.Deployment, p *template.Plan) error {
	var refused []*millpond.Error
	for i := range p.Resources {
		r := &p.Resources[i]
		if !r.Deployed() {
			continue
		}
		body, err := p.Body(i, nil)
		if errors.Is(err, template.ErrNotYet) {
			body, err = nil, nil
		}
		if err != nil {
			return err
		}
		if err := s.manager.Check(ctx, d.Caller, r.ID, r.APIVersion, body); err != nil {
			e := millpond.AsError(err)
			if e.Kind == millpond.Internal {
				return err
			}
			refused = append(refused, e)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	if refused[0].Kind == millpond.Forbidden {
		return refused[0]
	}
	e := millpond.Errorf(millpond.Invalid, "InvalidTemplateDeployment", "The template deployment '%s' is not valid according to the validation procedure. The tracking id is '%s'. See inner errors for details.", d.Name, d.Correlation)
	for _, r := range refused {
		e = e.With(r.Code, r.Message)
	}
	return e
}

func steps(d *millpond.Deployment, p *template.Plan) []*millpond.DeploymentStep {
	var out []*millpond.DeploymentStep
	for i := range p.Resources {
		r := &p.Resources[i]
		st := &millpond.DeploymentStep{Deployment: d.Key(), Ordinal: i, ID: newID(), Target: r.ID, Type: r.Type, Name: r.Name, DependsOn: r.DependsOn, State: millpond.StepWaiting}
		if !r.Deployed() {
			st.State = millpond.StepSkipped
		}
		out = append(out, st)
	}
	return out
}

// Put starts a deployment. created is false when it replaces an ended one.
func (s *Service) Put(ctx context.Context, r Request) (out *Plan, created bool, err error) {
	p, err := s.Validate(ctx, r)
	if err != nil {
		return nil, false, err
	}
	d := p.Deployment
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		old, err := tx.Deployment(d.Key())
		switch {
		case errors.Is(err, sqlite.ErrNoRow):
			created = true
		case err != nil:
			return err
		default:
			if _, outcome, why := millpond.DeploymentTransition(old.State, millpond.DeploymentReplace); outcome == millpond.Refused {
				return millpond.Errorf(millpond.Conflict, "DeploymentActive", "Unable to edit or replace deployment '%s': previous deployment from '%s' is still active (%s). Please see https://aka.ms/arm-deploy for usage details.",
					old.Name, old.Started.Format(time.RFC3339), why)
			}
			d.ID = old.ID
		}
		d.Started = tx.Now
		if err := tx.PutDeployment(d); err != nil {
			return err
		}
		if err := tx.DeleteSteps(d.Key()); err != nil {
			return err
		}
		for _, st := range p.Steps {
			if err := tx.PutStep(st); err != nil {
				return err
			}
		}
		return tx.PruneDeployments(d.Subscription, d.Group, history)
	})
	if err != nil {
		return nil, false, err
	}
	s.wake.Wake()
	return p, created, nil
}

// env is what a deployment's template sees of the world.
func (s *Service) env(ctx context.Context, d *millpond.Deployment) (template.Env, error) {
	sub, err := s.Resources.Subscription(ctx, d.Subscription)
	if err != nil {
		return template.Env{}, err
	}
	deployment := map[string]any{"name": d.Name, "properties": map[string]any{"mode": "Incremental", "provisioningState": "Running", "templateHash": d.Hash}}
	env := template.Env{TenantID: sub.Tenant, SubscriptionID: sub.ID, Now: d.Started, NewGUID: newID, Deployment: deployment,
		Subscription: map[string]any{"id": sub.Scope(), "subscriptionId": sub.ID, "tenantId": sub.Tenant, "displayName": sub.Name},
		Environment: map[string]any{"name": "AzureCloud", "gallery": "https://gallery.azure.com/", "graph": "https://graph.windows.net/", "portal": "https://portal.azure.com",
			"graphAudience": "https://graph.windows.net/", "activeDirectoryDataLake": "https://datalake.azure.net/", "batch": "https://batch.core.windows.net/",
			"media": "https://rest.media.azure.net", "sqlManagement": "https://management.core.windows.net:8443/", "resourceManager": "https://management.azure.com/",
			"vmImageAliasDoc": "https://raw.githubusercontent.com/Azure/azure-rest-api-specs/master/arm-compute/quickstart-templates/aliases.json",
			"authentication":  map[string]any{"loginEndpoint": "https://login.microsoftonline.com/", "audiences": []any{"https://management.core.windows.net/", "https://management.azure.com/"}, "tenant": "common", "identityProvider": "AAD"},
			"suffixes":        map[string]any{"storage": "core.windows.net", "keyvaultDns": ".vault.azure.net", "acrLoginServer": ".azurecr.io", "sqlServerHostname": ".database.windows.net"}}}
	if d.Group == "" {
		deployment["location"] = d.Location
		return env, nil
	}
	g, err := s.Resources.Group(ctx, d.Group)
	if err != nil {
		return env, err
	}
	env.Group = g.Name
	tags := map[string]any{}
	for k, v := range g.Tags {
		tags[k] = v
	}
	env.ResourceGroup = map[string]any{"id": g.Scope(), "name": g.Name, "type": "Microsoft.Resources/resourceGroups", "location": g.Location, "tags": tags,
		"properties": map[string]any{"provisioningState": string(g.State)}}
	return env, nil
}

// hash tells templates apart, as a number of 20 digits at most.
func hash(text []byte) string {
	sum := sha256.Sum256(text)
	return fmt.Sprint(binary.BigEndian.Uint64(sum[:8]))
}

// expand makes the plan of a deployment that was admitted before.
func (s *Service) expand(ctx context.Context, d *millpond.Deployment) (*template.Plan, error) {
	t, err := template.Parse(d.Template)
	if err != nil {
		return nil, err
	}
	env, err := s.env(ctx, d)
	if err != nil {
		return nil, err
	}
	v, err := template.DecodeJSON(d.Values)
	if err != nil {
		return nil, err
	}
	values, _ := v.(map[string]any)
	return t.Expand(values, env)
}

// public are a deployment's values without secrets.
func public(d *millpond.Deployment) json.RawMessage {
	t, err := template.Parse(d.Template)
	if err != nil {
		return nil
	}
	v, err := template.DecodeJSON(d.Values)
	if err != nil {
		return nil
	}
	values, _ := v.(map[string]any)
	out, err := json.Marshal(t.Public(values))
	if err != nil {
		return nil
	}
	return out
}
