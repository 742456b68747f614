// Package application holds the verbs of application packages: a Batch account's
// programs, which users upload as zip archives to the account's linked storage
// and which nodes install. It gives out the links for uploading and for nodes.
//
// It unpacks nothing and knows no nodes; agent/proc installs. Edges armapi and
// batchapi call it, pool verbs through Check, node sessions through Packages.
package application

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/account"
	"millpond.dev/millpond/internal/blobsign"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/storage"
)

// Accounts finds Batch accounts; account.Service does.
type Accounts interface {
	Lookup(ctx context.Context, name millpond.AccountName) (millpond.BatchAccount, error)
}

// Resources is what application needs of the resource verbs.
type Resources interface {
	Admit(tx *sqlite.Tx, id millpond.ResourceID, location string) (millpond.ResourceID, string, error)
	NotFound(tx *sqlite.Tx, id millpond.ResourceID) error
}

// Service is safe for concurrent use.
type Service struct {
	db        *sqlite.DB
	rand      io.Reader
	resources Resources
	accounts  Accounts
	storage   *storage.Service
}

// New makes a Service.
func New(db *sqlite.DB, rand io.Reader, resources Resources, accounts Accounts, st *storage.Service) *Service {
	return &Service{db, rand, resources, accounts, st}
}

var validName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
var validVersion = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

func missing(code, format string, args ...any) *millpond.Error {
	return millpond.Errorf(millpond.NotFound, code, format, args...)
}

func noApplication(id millpond.ResourceID) error {
	return missing("ApplicationNotFound", "The specified application %s does not exist. az batch application list shows what does.", id.Name())
}

func noPackage(id millpond.ResourceID) error {
	return missing("ApplicationPackageNotFound", "The specified application package version %s does not exist. az batch application package list shows what does.", id.Name())
}

// load reads a row of this package's types.
func load[T any, P interface {
	*T
	sqlite.Noun
}](tx *sqlite.Tx, id millpond.ResourceID, none func(millpond.ResourceID) error) (*T, error) {
	n, err := sqlite.Load[T, P](tx, id.Key())
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil, none(id)
	}
	return n, err
}

// Change is a PUT or PATCH of an application; nil leaves.
type Change struct {
	ID             millpond.ResourceID
	DisplayName    *string
	DefaultVersion *string
	AllowUpdates   *bool
	Patch          bool
}

// Put creates or changes an application.
func (s *Service) Put(ctx context.Context, c Change) (out *millpond.BatchApplication, err error) {
	if !c.Patch && !validName.MatchString(c.ID.Name()) {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidPropertyValue", "The application id %q is not valid: 1 to 64 letters, digits, hyphens and underscores.", c.ID.Name())
	}
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		out, err = sqlite.Load[millpond.BatchApplication](tx, c.ID.Key())
		switch {
		case errors.Is(err, sqlite.ErrNoRow) && c.Patch:
			return noApplication(c.ID)
		case errors.Is(err, sqlite.ErrNoRow):
			parent, _ := c.ID.Parent()
			a, err := load[account.Account](tx, parent, func(id millpond.ResourceID) error { return s.resources.NotFound(tx, id) })
			if err != nil {
				return err
			}
			if a.AutoStorage == nil {
				return account.NoAutoStorage(a.ID.Name())
			}
			n, err := tx.CountChildren(parent.Key())
			if err != nil {
				return err
			}
			if n >= millpond.MaxApplications {
				return millpond.Errorf(millpond.Conflict, "ApplicationQuotaReached", "The account %s has %d applications, which is its quota. Delete one.", a.ID.Name(), n)
			}
			out = &millpond.BatchApplication{AllowUpdates: true}
			if out.ID, out.Location, err = s.resources.Admit(tx, c.ID, a.Location); err != nil {
				return err
			}
			out.State = millpond.StateSucceeded
		case err != nil:
			return err
		}
		if c.DisplayName != nil {
			out.DisplayName = *c.DisplayName
		}
		if c.AllowUpdates != nil {
			out.AllowUpdates = *c.AllowUpdates
		}
		if c.DefaultVersion != nil && *c.DefaultVersion != out.DefaultVersion {
			if *c.DefaultVersion != "" {
				p, err := load[millpond.ApplicationPackage](tx, c.ID.Child("versions", *c.DefaultVersion), noPackage)
				if err != nil {
					return err
				}
				if !p.Active {
					return notActive(p)
				}
			}
			out.DefaultVersion = *c.DefaultVersion
		}
		return tx.Put(out)
	})
	return out, err
}

func notActive(p *millpond.ApplicationPackage) error {
	app, _ := p.ID.Parent()
	return millpond.Errorf(millpond.Conflict, "ApplicationPackageNotActive", "The version %s of application %s is pending. Upload its archive and activate it: az batch application package activate", p.ID.Name(), app.Name())
}

// Get returns one application.
func (s *Service) Get(ctx context.Context, id millpond.ResourceID) (a *millpond.BatchApplication, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		a, err = load[millpond.BatchApplication](tx, id, noApplication)
		return err
	})
	return a, err
}

// List lists the applications of an account by key.
func (s *Service) List(ctx context.Context, acct millpond.ResourceID, q sqlite.Query) (out []*millpond.BatchApplication, err error) {
	q.Type, q.Parent = millpond.TypeBatchApplication, acct.Key()
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := tx.Resource(acct.Key()); errors.Is(err, sqlite.ErrNoRow) {
			return s.resources.NotFound(tx, acct)
		}
		out, err = sqlite.List[millpond.BatchApplication](tx, q)
		return err
	})
	return out, err
}

// Delete deletes an application without versions; false if it was not there.
func (s *Service) Delete(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		if _, err := tx.Resource(id.Key()); errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		n, err := tx.CountChildren(id.Key())
		if err != nil {
			return err
		}
		if n > 0 {
			return millpond.Errorf(millpond.Conflict, "ApplicationContainsPackages", "The application %s has %d versions. Delete them first: az batch application package delete", id.Name(), n)
		}
		found = true
		return tx.DeleteResource(id.Key())
	})
	return found, err
}

// DeleteAccount deletes every row of an account; the archives stay in its
// storage, which is the user's.
func (s *Service) DeleteAccount(ctx context.Context, acct millpond.ResourceID) error {
	return s.db.Update(ctx, func(tx *sqlite.Tx) error {
		apps, err := tx.Resources(sqlite.Query{Parent: acct.Key()})
		if err != nil {
			return err
		}
		for _, a := range apps {
			versions, err := tx.Resources(sqlite.Query{Parent: a.ID.Key()})
			if err != nil {
				return err
			}
			for _, v := range versions {
				if err := tx.DeleteResource(v.ID.Key()); err != nil {
					return err
				}
			}
			if err := tx.DeleteResource(a.ID.Key()); err != nil {
				return err
			}
		}
		return nil
	})
}

// uploadLife is how long the link for uploading an archive is good.
const uploadLife = 4 * time.Hour

// Upload is where a version's archive is to be put.
type Upload struct {
	URL     string
	Expires time.Time
}

// PutPackage creates a version, or has it uploaded anew if its application
// allows that, and returns where to.
func (s *Service) PutPackage(ctx context.Context, id millpond.ResourceID) (out *millpond.ApplicationPackage, up Upload, err error) {
	if !validVersion.MatchString(id.Name()) {
		return nil, up, millpond.Errorf(millpond.Invalid, "InvalidPropertyValue", "The version %q is not valid: 1 to 64 letters, digits, dots, hyphens and underscores.", id.Name())
	}
	stamp := make([]byte, 8)
	if _, err := io.ReadFull(s.rand, stamp); err != nil {
		return nil, up, err
	}
	app, _ := id.Parent()
	acct, _ := app.Parent()
	st, err := s.linked(ctx, acct)
	if err != nil {
		return nil, up, err
	}
	// The container first: a row without one could not be uploaded to.
	sum := sha256.Sum256([]byte(app.Key()))
	container := "app-" + hex.EncodeToString(sum[:12])
	if s.storage.Behind == nil {
		return nil, up, millpond.Errorf(millpond.Unavailable, "BlobServiceNotConfigured", "This server has no blob service behind its storage accounts any more. Start it with --blob-service.")
	}
	if err := storage.Ensure(ctx, s.storage.Behind.Container(st.ID.Name(), container)); err != nil {
		return nil, up, millpond.Errorf(millpond.Unavailable, "StorageAccountUnreachable", "The blob service behind the storage account %s does not answer.", st.ID.Name()).Because(err)
	}
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		a, err := load[millpond.BatchApplication](tx, app, noApplication)
		if err != nil {
			return err
		}
		old, err := sqlite.Load[millpond.ApplicationPackage](tx, id.Key())
		switch {
		case err == nil && old.Active && !a.AllowUpdates:
			return millpond.Errorf(millpond.Conflict, "ApplicationPackageUpdatesNotAllowed", "The application %s does not allow updates of its versions. Use another version, or: az batch application set --allow-updates true", a.ID.Name())
		case err != nil && !errors.Is(err, sqlite.ErrNoRow):
			return err
		case err != nil:
			n, err := tx.CountChildren(app.Key())
			if err != nil {
				return err
			}
			if n >= millpond.MaxPackages {
				return millpond.Errorf(millpond.Conflict, "ApplicationPackageQuotaReached", "The application %s has %d versions, which is its quota. Delete one.", a.ID.Name(), n)
			}
		}
		out = &millpond.ApplicationPackage{Storage: st.ID, Container: container, Stamp: hex.EncodeToString(stamp)}
		if out.ID, out.Location, err = s.resources.Admit(tx, id, a.Location); err != nil {
			return err
		}
		out.State = millpond.StateSucceeded
		out.Blob = strings.ToLower(a.ID.Name() + "-" + out.ID.Name() + "-" + out.Stamp)
		up.Expires = tx.Now.Add(uploadLife)
		return tx.Put(out)
	})
	if err != nil {
		return nil, up, err
	}
	up.URL, err = s.storage.LinkTo(st, blobsign.Place{Container: container, Blob: out.Blob}, "rcw", uploadLife)
	return out, up, err
}

// linked is an account's linked storage.
func (s *Service) linked(ctx context.Context, acct millpond.ResourceID) (*millpond.StorageAccount, error) {
	var a *account.Account
	err := s.db.View(ctx, func(tx *sqlite.Tx) (err error) {
		a, err = load[account.Account](tx, acct, func(id millpond.ResourceID) error { return s.resources.NotFound(tx, id) })
		return err
	})
	if err != nil {
		return nil, err
	}
	if a.AutoStorage == nil {
		return nil, account.NoAutoStorage(a.ID.Name())
	}
	return s.storage.Of(ctx, a.AutoStorage.ID)
}

// Activate makes an uploaded version known to nodes.
func (s *Service) Activate(ctx context.Context, id millpond.ResourceID, format string) (*millpond.ApplicationPackage, error) {
	if !strings.EqualFold(format, "zip") {
		return nil, millpond.Errorf(millpond.Invalid, "InvalidPropertyValue", "The format %q of an application package is not supported. Upload a zip archive and give zip.", format)
	}
	p, err := s.Package(ctx, id)
	if err != nil {
		return nil, err
	}
	st, err := s.storage.Of(ctx, p.Storage)
	if err != nil {
		return nil, err
	}
	if s.storage.Behind != nil {
		_, err = s.storage.Behind.Container(st.ID.Name(), p.Container).NewBlobClient(p.Blob).GetProperties(ctx, nil)
	}
	if bloberror.HasCode(err, bloberror.BlobNotFound, bloberror.ContainerNotFound) {
		return nil, millpond.Errorf(millpond.Conflict, "ApplicationPackageBlobNotFound", "The archive of version %s has not been uploaded. Put it to the storageUrl that creating the version gave, then activate it.", p.ID.Name())
	}
	if err != nil {
		return nil, millpond.Errorf(millpond.Unavailable, "StorageAccountUnreachable", "The blob service behind the storage account %s does not answer.", st.ID.Name()).Because(err)
	}
	var out *millpond.ApplicationPackage
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		if out, err = load[millpond.ApplicationPackage](tx, id, noPackage); err != nil {
			return err
		}
		if out.Stamp != p.Stamp {
			return millpond.Errorf(millpond.Conflict, "ApplicationPackageChanged", "The version %s is being uploaded anew. Activate it again when that has ended.", p.ID.Name())
		}
		out.Active, out.Format, out.Activated = true, "zip", tx.Now
		return tx.Put(out)
	})
	return out, err
}

// Package returns one version.
func (s *Service) Package(ctx context.Context, id millpond.ResourceID) (p *millpond.ApplicationPackage, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		p, err = load[millpond.ApplicationPackage](tx, id, noPackage)
		return err
	})
	return p, err
}

// Link is a link for reading and writing a version's archive, as the Resource
// Manager shows it.
func (s *Service) Link(ctx context.Context, p *millpond.ApplicationPackage) (Upload, error) {
	st, err := s.storage.Of(ctx, p.Storage)
	if err != nil {
		return Upload{}, err
	}
	u, err := s.storage.LinkTo(st, blobsign.Place{Container: p.Container, Blob: p.Blob}, "rcw", uploadLife)
	return Upload{URL: u, Expires: s.storage.Clock.Now().Add(uploadLife)}, err
}

// ListPackages lists the versions of an application by key.
func (s *Service) ListPackages(ctx context.Context, app millpond.ResourceID, q sqlite.Query) (out []*millpond.ApplicationPackage, err error) {
	q.Type, q.Parent = millpond.TypeApplicationPackage, app.Key()
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		if _, err := load[millpond.BatchApplication](tx, app, noApplication); err != nil {
			return err
		}
		out, err = sqlite.List[millpond.ApplicationPackage](tx, q)
		return err
	})
	return out, err
}

// DeletePackage deletes a version and its archive; false if it was not there. An
// application whose default version it was has none then.
func (s *Service) DeletePackage(ctx context.Context, id millpond.ResourceID) (found bool, err error) {
	var p *millpond.ApplicationPackage
	err = s.db.Update(ctx, func(tx *sqlite.Tx) error {
		p, err = sqlite.Load[millpond.ApplicationPackage](tx, id.Key())
		if errors.Is(err, sqlite.ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		app, _ := id.Parent()
		if a, err := sqlite.Load[millpond.BatchApplication](tx, app.Key()); err == nil && strings.EqualFold(a.DefaultVersion, id.Name()) {
			a.DefaultVersion = ""
			if err := tx.Put(a); err != nil {
				return err
			}
		}
		found = true
		return tx.DeleteResource(id.Key())
	})
	if err != nil || !found {
		return found, err
	}
	if st, err := s.storage.Of(ctx, p.Storage); err == nil && s.storage.Behind != nil {
		// A blob that stays behind costs space, nothing else.
		_, _ = s.storage.Behind.Container(st.ID.Name(), p.Container).NewBlobClient(p.Blob).Delete(ctx, nil)
	}
	return true, nil
}

// Summary is an application with the versions that nodes can install.
type Summary struct {
	ID, DisplayName string
	Versions        []string
}

// Summaries lists an account's applications that nodes can install.
func (s *Service) Summaries(ctx context.Context, acct millpond.ResourceID) (out []Summary, err error) {
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		apps, err := sqlite.List[millpond.BatchApplication](tx, sqlite.Query{Type: millpond.TypeBatchApplication, Parent: acct.Key()})
		if err != nil {
			return err
		}
		for _, a := range apps {
			versions, err := sqlite.List[millpond.ApplicationPackage](tx, sqlite.Query{Type: millpond.TypeApplicationPackage, Parent: a.ID.Key()})
			if err != nil {
				return err
			}
			v := Summary{ID: a.ID.Name(), DisplayName: a.DisplayName}
			if v.DisplayName == "" {
				v.DisplayName = v.ID
			}
			for _, p := range versions {
				if p.Active {
					v.Versions = append(v.Versions, p.ID.Name())
				}
			}
			if len(v.Versions) > 0 {
				out = append(out, v)
			}
		}
		return nil
	})
	return out, err
}

// Check refuses references to what nodes could not install, with Azure's code.
func (s *Service) Check(ctx context.Context, acct millpond.BatchAccount, refs []millpond.PackageReference) error {
	if len(refs) == 0 {
		return nil
	}
	_, err := s.resolve(ctx, acct, refs)
	return err
}

// resolve finds the active versions that references mean.
func (s *Service) resolve(ctx context.Context, acct millpond.BatchAccount, refs []millpond.PackageReference) (out []*millpond.ApplicationPackage, err error) {
	bad := func(ref millpond.PackageReference, why string) error {
		return millpond.Errorf(millpond.Conflict, "InvalidApplicationPackageReferences", "One or more of the specified application package references are invalid: %s#%s: %s", ref.Application, ref.Version, why).
			With(ref.Application, ref.Version)
	}
	err = s.db.View(ctx, func(tx *sqlite.Tx) error {
		for _, ref := range refs {
			id := acct.ID.Child("applications", ref.Application)
			a, err := sqlite.Load[millpond.BatchApplication](tx, id.Key())
			if errors.Is(err, sqlite.ErrNoRow) {
				return bad(ref, "the application does not exist. az batch application list shows what does.")
			}
			if err != nil {
				return err
			}
			version := ref.Version
			if version == "" {
				version = a.DefaultVersion
			}
			if version == "" {
				return bad(ref, "it names no version, and the application has no default version. Set one: az batch application set --default-version")
			}
			p, err := sqlite.Load[millpond.ApplicationPackage](tx, id.Child("versions", version).Key())
			if errors.Is(err, sqlite.ErrNoRow) {
				return bad(ref, "the version does not exist. az batch application package list shows what does.")
			}
			if err != nil {
				return err
			}
			if !p.Active {
				return bad(ref, "the version is not active. Upload its archive and activate it: az batch application package activate")
			}
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

// nodeLife is how long a node's link to an archive is good.
const nodeLife = 24 * time.Hour

// Packages are the packages that references mean now, with links for a node.
func (s *Service) Packages(ctx context.Context, name millpond.AccountName, refs []millpond.PackageReference) ([]millpond.Package, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	acct, err := s.accounts.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	found, err := s.resolve(ctx, acct, refs)
	if err != nil {
		return nil, err
	}
	var out []millpond.Package
	for i, p := range found {
		st, err := s.storage.Of(ctx, p.Storage)
		if err != nil {
			return nil, err
		}
		u, err := s.storage.LinkTo(st, blobsign.Place{Container: p.Container, Blob: p.Blob}, "r", nodeLife)
		if err != nil {
			return nil, fmt.Errorf("link application package: %w", err)
		}
		app, _ := p.ID.Parent()
		out = append(out, millpond.Package{Application: app.Name(), Version: p.ID.Name(), Stamp: p.Stamp, URL: u, Default: refs[i].Version == ""})
	}
	return out, nil
}
