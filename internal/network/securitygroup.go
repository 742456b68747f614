package network

import (
	"context"
	"strings"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
)

// PutSecurityGroup creates a group or replaces its rules.
func (s *Service) PutSecurityGroup(ctx context.Context, g *millpond.SecurityGroup) (out *millpond.SecurityGroup, created bool, err error) {
	if err := CheckSecurityGroup(g); err != nil {
		return nil, false, err
	}
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		if g.ID, g.Location, err = s.resources.Admit(tx, g.ID, g.Location); err != nil {
			return err
		}
		old, err := previous[millpond.SecurityGroup](tx, g.ID)
		if err != nil {
			return err
		}
		g.UniqueID, g.ETag = uuid.NewString(), newETag()
		if old != nil {
			g.UniqueID = old.UniqueID
		}
		for i := range g.Rules {
			g.Rules[i].ETag = g.ETag
		}
		out = g
		created, err = put(tx, g, old)
		return err
	})
	return out, created, err
}

// SecurityGroup returns one group.
func (s *Service) SecurityGroup(ctx context.Context, id millpond.ResourceID) (*millpond.SecurityGroup, error) {
	return view[millpond.SecurityGroup](ctx, s, id)
}

// SecurityGroups lists groups by key.
func (s *Service) SecurityGroups(ctx context.Context, q sqlite.Query) ([]*millpond.SecurityGroup, error) {
	return list[millpond.SecurityGroup](ctx, s, millpond.TypeSecurityGroup, q)
}

// DeleteSecurityGroup deletes a group; false if it was not there.
func (s *Service) DeleteSecurityGroup(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		g, err := previous[millpond.SecurityGroup](tx, id)
		if g == nil || err != nil {
			return err
		}
		found = true
		used, err := s.usesOf(tx, id.Subscription)
		if err != nil {
			return err
		}
		cards, subnets := used.SecurityGroup(id)
		if by := append(cards, subnets...); len(by) > 0 {
			return inUse("InUseNetworkSecurityGroupCannotBeDeleted", "Network security group %s cannot be deleted because it is in use by the following resources: %s. In order to delete the Network security group, remove the association with the resource(s).", g.ID, strings.Join(by, ", "))
		}
		return tx.DeleteResource(id.Key())
	})
	return found, err
}

// RuleOf finds a rule by name; nil without it.
func RuleOf(g *millpond.SecurityGroup, name string) *millpond.SecurityRule {
	for i := range g.Rules {
		if strings.EqualFold(g.Rules[i].Name, name) {
			return &g.Rules[i]
		}
	}
	return nil
}

// PutRule creates or replaces one rule of a group.
func (s *Service) PutRule(ctx context.Context, id millpond.ResourceID, rule millpond.SecurityRule) (out *millpond.SecurityGroup, created bool, err error) {
	parent, _ := id.Parent()
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		admitted, err := s.admitWithin(tx, parent)
		if err != nil {
			return err
		}
		g, err := previous[millpond.SecurityGroup](tx, admitted)
		if err != nil {
			return err
		}
		if g == nil {
			return millpond.Errorf(millpond.NotFound, "ParentResourceNotFound", "Can not perform requested operation on nested resource. Parent resource '%s' not found. Create it first: az network nsg create -g %s -n %s", parent.Name(), parent.Group, parent.Name())
		}
		g.ETag = newETag()
		rule.ETag = g.ETag
		if at := RuleOf(g, rule.Name); at != nil {
			rule.Name = at.Name
			*at = rule
		} else {
			g.Rules, created = append(g.Rules, rule), true
		}
		if err := CheckSecurityGroup(g); err != nil {
			return err
		}
		out = g
		return tx.Put(g)
	})
	return out, created, err
}

// DeleteRule deletes one rule; false if it was not there.
func (s *Service) DeleteRule(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	parent, _ := id.Parent()
	err = s.update(ctx, func(tx *sqlite.Tx) error {
		g, err := previous[millpond.SecurityGroup](tx, parent)
		if g == nil || err != nil || RuleOf(g, id.Name()) == nil {
			return err
		}
		found = true
		kept := g.Rules[:0]
		for _, r := range g.Rules {
			if !strings.EqualFold(r.Name, id.Name()) {
				kept = append(kept, r)
			}
		}
		g.Rules, g.ETag = kept, newETag()
		return tx.Put(g)
	})
	return found, err
}
