package compute

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/sqlite"
	"millpond.dev/millpond/internal/vhd"
)

// Access is what a signed URL says: path /{container}/{blob} and the query
// members sp, se, si and sig.
type Access struct {
	Container, Blob string
	Permissions     string // r or rw
	Expiry          string // RFC 3339
	ID              string
	Signature       string
}

// AccessFromURL reads the last two path segments and the query of a URL.
func AccessFromURL(u *url.URL) Access {
	segs := strings.Split(strings.Trim(u.Path, "/"), "/")
	q := u.Query()
	a := Access{Permissions: q.Get("sp"), Expiry: q.Get("se"), ID: q.Get("si"), Signature: q.Get("sig")}
	if len(segs) >= 2 {
		a.Container, a.Blob = segs[len(segs)-2], segs[len(segs)-1]
	}
	return a
}

func (a Access) text() string {
	return strings.Join([]string{a.Container, a.Blob, a.Permissions, a.Expiry, a.ID}, "\n")
}

// Path is /{container}/{blob}?{query}, to be put behind a host.
func (a Access) Path() string {
	q := url.Values{"sv": {"2018-03-28"}, "sr": {"b"}, "sp": {a.Permissions}, "se": {a.Expiry}, "si": {a.ID}, "sig": {a.Signature}}
	return "/" + a.Container + "/" + a.Blob + "?" + q.Encode()
}

// Grant gives access to a disk (read or, for an upload, write) or a snapshot
// (read) for a time.
func (s *Service) Grant(ctx context.Context, id millpond.ResourceID, write bool, duration time.Duration) (Access, error) {
	if duration < time.Second || duration > 1<<31*time.Second {
		return Access{}, invalid("durationInSeconds", "durationInSeconds must be from 1 to 2147483647.")
	}
	var a Access
	err := s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		d, err := load[millpond.Disk](s, tx, id)
		if err != nil {
			return err
		}
		if d.Base().State != millpond.StateSucceeded {
			return millpond.Errorf(millpond.Conflict, "ResourceNotReady", "'%s' is not ready: it is %s.", d.ID.Name(), d.Base().State)
		}
		if err := exportable(d); err != nil {
			return err
		}
		event := millpond.DiskGrantRead
		if write {
			event = millpond.DiskGrantWrite
		}
		next, ok := d.State.Next(event)
		if !ok || write && d.Snapshot {
			return refuse(d, event)
		}
		d.State = next
		if err := tx.Put(d); err != nil {
			return err
		}
		sum := sha256.Sum256([]byte(d.UniqueID))
		expires := tx.Now.Add(duration).Truncate(time.Second)
		a = Access{Container: hex.EncodeToString(sum[:6]), Blob: "abcd", Permissions: "r", Expiry: expires.Format(time.RFC3339), ID: uuid.NewString()}
		if write {
			a.Permissions = "rw"
		}
		a.Signature = s.sign(a.text())
		return tx.PutAccess(millpond.DiskAccess{ID: a.ID, Disk: d.ID.Key(), Write: write, Expires: expires})
	})
	s.wake.Wake() // the loop ends the access in time
	return a, err
}

// exportable refuses to hand out the bytes of a disk or snapshot whose policies
// forbid it. The policy AllowPrivate lets them out through private endpoints, of
// which there are none here.
func exportable(d *millpond.Disk) error {
	kind := "disk"
	if d.Snapshot {
		kind = "snapshot"
	}
	why, change := "", "--network-access-policy AllowAll"
	switch {
	case strings.EqualFold(d.Network, "DenyAll"):
		why = "networkAccessPolicy DenyAll"
	case strings.EqualFold(d.Network, "AllowPrivate"):
		why = "networkAccessPolicy AllowPrivate, which opens it to private endpoints only, and this service has none"
	case strings.EqualFold(d.Public, "Disabled"):
		why, change = "publicNetworkAccess Disabled, which closes it to all but private endpoints, and this service has none", "--public-network-access Enabled"
	default:
		return nil
	}
	return millpond.Errorf(millpond.Forbidden, "OperationNotAllowed", "'%s' has %s. Change it with: az %s update %s --ids %s", d.ID.Name(), why, kind, change, d.ID)
}

// privacy checks the policy for access to a disk's bytes against the disk access
// that it names, which must be there, in the disk's region.
func (s *Service) privacy(tx *sqlite.Tx, d *millpond.Disk) error {
	private := strings.EqualFold(d.Network, "AllowPrivate")
	switch {
	case private && d.AccessID == "":
		return invalid("properties.diskAccessId", "networkAccessPolicy AllowPrivate needs the id of a disk access in diskAccessId. Make one with 'az disk-access create' and add --disk-access.")
	case !private && d.AccessID != "":
		return invalid("properties.diskAccessId", "diskAccessId is for networkAccessPolicy AllowPrivate, and '%s' has %s.", d.ID.Name(), d.Network)
	case !private:
		return nil
	}
	id, ok := millpond.ParseResourceID(d.AccessID)
	if !ok || !id.Is(millpond.TypeDiskAccess) {
		return invalid("properties.diskAccessId", "%q is not the id of a resource of type %s.", d.AccessID, millpond.TypeDiskAccess)
	}
	access, err := load[millpond.Placement](s, tx, id)
	if err != nil {
		return err
	}
	if access.Location != d.Location {
		return invalid("properties.diskAccessId", "The disk access '%s' is in %s and '%s' is in %s. Take one of that region.", access.ID.Name(), access.Location, d.ID.Name(), d.Location)
	}
	d.AccessID = access.ID.String()
	return nil
}

// Revoke ends all access to a disk or snapshot. The upload of a disk ends with
// it: the VHD footer is checked and the disk becomes usable. If the footer is
// wrong, the access ends all the same, the disk waits for another upload (or its
// deletion) and keeps the pages that it has, and the error says what was wrong.
func (s *Service) Revoke(ctx context.Context, id millpond.ResourceID) error {
	head, err := s.sync(ctx, id)
	if err != nil {
		return err
	}
	var unusable error
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		d, err := load[millpond.Disk](s, tx, id)
		if err != nil {
			return err
		}
		next, ok := d.State.Next(millpond.DiskRevoke)
		if !ok {
			return refuse(d, millpond.DiskRevoke)
		}
		if d.State == millpond.DiskActiveUpload {
			if unusable = uploaded(head, d.Footer, d.SizeBytes); unusable != nil {
				next, _ = d.State.Next(millpond.DiskExpire)
			}
		}
		d.State = next
		if err := tx.Revoke(d.ID.Key()); err != nil {
			return err
		}
		return tx.Put(d)
	})
	if err == nil && unusable != nil {
		e := *millpond.AsError(unusable)
		e.Message += " The access has ended and the disk waits for another upload: az disk grant-access --access-level Write --duration-in-seconds 86400 --ids " + id.String()
		return &e
	}
	return err
}

// sync makes an upload durable before its end is answered, and reads its first
// bytes, by which other formats show themselves.
func (s *Service) sync(ctx context.Context, id millpond.ResourceID) (head []byte, err error) {
	d, err := s.Disk(ctx, id)
	if err != nil || d.State != millpond.DiskActiveUpload {
		return nil, err
	}
	f, err := s.Disks.Open(d.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head = make([]byte, footer)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, err
	}
	return head, f.Sync()
}

// uploaded checks that what was uploaded is a fixed VHD, by its first bytes and
// its footer. Azure takes no other format, and so there is none here: a script
// that works here shall work there.
func uploaded(head, tail []byte, size int64) error {
	if len(head) > 0 {
		format, err := vhd.Detect(bytes.NewReader(head), int64(len(head)))
		if err == nil && format != vhd.Raw && format != vhd.Fixed {
			return notVHD(fmt.Errorf("they are a %s", format))
		}
	}
	return footerOf(tail, size)
}

// expire ends access whose time is over and says when the next one is.
func (s *Service) expire(ctx context.Context) (next time.Time, err error) {
	err = s.DB.Update(ctx, func(tx *sqlite.Tx) error {
		all, err := tx.Accesses()
		if err != nil {
			return err
		}
		for _, a := range all {
			if a.Expires.After(tx.Now) {
				next = a.Expires
				return nil
			}
			live, err := tx.LiveAccesses(a.Disk, tx.Now)
			if err != nil || live > 0 {
				if err != nil {
					return err
				}
				continue
			}
			d, err := sqlite.Load[millpond.Disk](tx, a.Disk)
			if err != nil {
				return err
			}
			if st, ok := d.State.Next(millpond.DiskExpire); ok {
				d.State = st
				if err := tx.Put(d); err != nil {
					return err
				}
			}
			if err := tx.Revoke(a.Disk); err != nil {
				return err
			}
		}
		return nil
	})
	return next, err
}

func denied() error {
	return millpond.Errorf(millpond.Forbidden, "AuthenticationFailed", "Server failed to authenticate the request. The URL's signature is wrong, has expired or was revoked. Ask for a new one with: az disk grant-access")
}

// OpenBlob opens the bytes that a signed URL gives access to.
func (s *Service) OpenBlob(ctx context.Context, a Access) (*Blob, error) {
	want := s.sign(a.text())
	if a.ID == "" || subtle.ConstantTimeCompare([]byte(want), []byte(a.Signature)) != 1 {
		return nil, denied()
	}
	var d *millpond.Disk
	var grant millpond.DiskAccess
	err := s.DB.View(ctx, func(tx *sqlite.Tx) (err error) {
		if grant, err = tx.Access(a.ID); err != nil {
			return err
		}
		if !grant.Expires.After(tx.Now) {
			return denied()
		}
		d, err = sqlite.Load[millpond.Disk](tx, grant.Disk)
		return err
	})
	if errors.Is(err, sqlite.ErrNoRow) {
		return nil, denied()
	}
	if err != nil {
		return nil, err
	}
	// The policies may have changed since the URL was made.
	if err := exportable(d); err != nil {
		return nil, err
	}
	return s.openDisk(ctx, d, grant.Write)
}

// etag stays the same over the life of a disk: clients that download in parts
// compare it, and what can be downloaded does not change.
func etag(d *millpond.Disk) string { return `"0x` + strconv.FormatInt(d.Created.UnixMicro(), 16) + `"` }
