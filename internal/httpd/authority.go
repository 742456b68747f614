package httpd

import (
	"container/list"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"millpond.dev/millpond/internal/atomicfile"
	"millpond.dev/millpond/internal/azwire"
	"millpond.dev/millpond/internal/clock"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	// leafLife is under the 398 days that clients accept of a leaf.
	leafLife = 397 * 24 * time.Hour
	// renewBefore is when a leaf in the cache is made anew.
	renewBefore = 24 * time.Hour
	// maxLeaves bounds the cache: a scanner with many names costs time, not memory.
	maxLeaves = 256
	// InternalName is the name by which Millpond's own parts may call the server.
	InternalName = "millpond.internal"
)

// Authority is the server's own CA. It mints a certificate for each name that a
// client asks for, because a wildcard covers one label only and account hosts
// have two before the service's name.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
	clock       clock.Clock
	// leafKey serves all leaves of this process; only their names differ.
	leafKey *ecdsa.PrivateKey
	// names are added to the certificate of connections that name no host.
	names []string

	mu     sync.Mutex
	leaves map[string]*list.Element
	recent *list.List // of *leaf, most recently used first
}

type leaf struct {
	name        string
	certificate *tls.Certificate
	expires     time.Time
}

// LoadAuthority reads the CA from two PEM files, or makes it. The key's file is
// readable by its owner alone. names are further host names and addresses of
// this server.
func LoadAuthority(certFile, keyFile string, c clock.Clock, names ...string) (*Authority, error) {
	keyPEM, err := os.ReadFile(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		keyPEM, err = makeAuthority(certFile, keyFile, c.Now())
	}
	if err != nil {
		return nil, err
	}
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("the CA's key is there but its certificate is not: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read the CA from %s and %s: %w", certFile, keyFile, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, not an ECDSA key", keyFile, pair.PrivateKey)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Authority{certificate: cert, key: key, pem: certPEM, clock: c, leafKey: leafKey, names: names,
		leaves: map[string]*list.Element{}, recent: list.New()}, nil
}

// makeAuthority writes a new CA and returns its key. The profile passes strict
// checkers: critical basic constraints and key usage, and a subject key id,
// without which Python 3.13 refuses a chain (arm-and-identity.md §1.2).
func makeAuthority(certFile, keyFile string, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	ski, err := keyID(key)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Millpond"}, CommonName: "Millpond local CA " + serial.Text(16)[:8]},
		NotBefore:    now.Add(-renewBefore), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:     x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId: ski,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	// The certificate first: a certificate without its key is written over next
	// time, a key without its certificate would need a hand.
	if err := atomicfile.Write(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, err
	}
	return keyPEM, atomicfile.Write(keyFile, keyPEM, 0o600)
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	return n.SetBit(n, 126, 1), nil
}

func keyID(key *ecdsa.PrivateKey) ([]byte, error) {
	pub, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(pub)
	return sum[:20], nil
}

// PEM is the CA's certificate, for clients to trust.
func (a *Authority) PEM() []byte { return a.pem }

// TLS is the listener's configuration.
func (a *Authority) TLS() *tls.Config {
	all := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: a.certificateFor}
	// Azure's storage speaks HTTP/1.1 alone, and its clients are written for that:
	// azcopy closes a body that is slow and takes what HTTP/2 says to it for a
	// failure.
	blobs := all.Clone()
	blobs.NextProtos = []string{"http/1.1"}
	all.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if azwire.ServiceOf(hello.ServerName) == azwire.ServiceBlob {
			return blobs, nil
		}
		return nil, nil
	}
	return all
}

var hostName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)

// certificateFor finds or mints the certificate of the name that the client
// asks for. A client that dials an address names none; it gets one for the
// address it reached, this server's usual names, and those it was told of.
func (a *Authority) certificateFor(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if name := strings.ToLower(strings.TrimSuffix(hello.ServerName, ".")); name != "" {
		if len(name) > 253 || !hostName.MatchString(name) {
			return nil, fmt.Errorf("%q is no host name", hello.ServerName)
		}
		return a.leaf(name, name)
	}
	names := append([]string{"localhost", InternalName}, a.names...)
	key := "*"
	if hello.Conn != nil {
		if addr, ok := hello.Conn.LocalAddr().(*net.TCPAddr); ok {
			names = append(names, addr.IP.String())
			key += addr.IP.String()
		}
	}
	return a.leaf(key, names...)
}

func (a *Authority) leaf(key string, names ...string) (*tls.Certificate, error) {
	now := a.clock.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if e, ok := a.leaves[key]; ok {
		l := e.Value.(*leaf)
		if now.Before(l.expires.Add(-renewBefore)) {
			a.recent.MoveToFront(e)
			return l.certificate, nil
		}
		a.recent.Remove(e)
		delete(a.leaves, key)
	}
	cert, err := a.mint(now, names)
	if err != nil {
		return nil, err
	}
	a.leaves[key] = a.recent.PushFront(&leaf{key, cert, cert.Leaf.NotAfter})
	for a.recent.Len() > maxLeaves {
		oldest := a.recent.Back()
		a.recent.Remove(oldest)
		delete(a.leaves, oldest.Value.(*leaf).name)
	}
	return cert, nil
}

func (a *Authority) mint(now time.Time, names []string) (*tls.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	ski, err := keyID(a.leafKey)
	if err != nil {
		return nil, err
	}
	until := now.Add(leafLife)
	if until.After(a.certificate.NotAfter) {
		until = a.certificate.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"Millpond"}},
		NotBefore: now.Add(-renewBefore), NotAfter: until,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		SubjectKeyId:          ski,
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	// A common name is at most 64 characters; nothing reads it, but an empty
	// subject would ask for critical alternative names.
	template.Subject.CommonName = "millpond"
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &a.leafKey.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: a.leafKey, Leaf: parsed}, nil
}
