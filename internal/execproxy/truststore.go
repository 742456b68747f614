package execproxy

import (
	"bytes"
	"crypto/sha1"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"strings"
	"unicode/utf16"
)

// storePassword is the one that Java's own store of CAs has; it keeps nothing
// secret.
const storePassword = "changeit"

// WriteTrustStore writes the certificates of a PEM bundle as a Java key store,
// the form in which every Java reads a file of CAs. An unchanged file is left
// alone.
func WriteTrustStore(file, bundle string) error {
	text, err := os.ReadFile(bundle)
	if err != nil {
		return err
	}
	return writeIfChanged(file, trustStore(text), 0o644)
}

// trustStore is a key store of the form JKS, version 2, with each certificate of
// a bundle that can be read.
func trustStore(bundle []byte) []byte {
	var b bytes.Buffer
	number := func(n uint32) { _ = binary.Write(&b, binary.BigEndian, n) }
	word := func(s string) {
		_ = binary.Write(&b, binary.BigEndian, uint16(len(s)))
		b.WriteString(s)
	}
	var certs [][]byte
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); block.Type == "CERTIFICATE" && err == nil {
			certs = append(certs, block.Bytes)
		}
	}
	number(0xfeedfeed)
	number(2)
	number(uint32(len(certs)))
	for i, c := range certs {
		number(2) // a certificate that is trusted
		word(fmt.Sprintf("ca%d", i))
		number(0) // made in 1970, so that the file depends on the bundle alone
		number(0)
		word("X.509")
		number(uint32(len(c)))
		b.Write(c)
	}
	h := sha1.New()
	_ = binary.Write(h, binary.BigEndian, utf16.Encode([]rune(storePassword)))
	h.Write([]byte("Mighty Aphrodite"))
	h.Write(b.Bytes())
	return h.Sum(b.Bytes())
}

// javaOptions are what a Java VM takes from JAVA_TOOL_OPTIONS: the proxy and the
// CAs, behind the user's own options, over which the last ones win.
func javaOptions(users, proxy, store string) string {
	u, err := url.Parse(proxy)
	if err != nil || store == "" {
		return users
	}
	quoted := store
	if strings.ContainsAny(store, " \t") {
		quoted = `"` + store + `"`
	}
	return strings.TrimSpace(users + " -Dhttps.proxyHost=" + u.Hostname() + " -Dhttps.proxyPort=" + u.Port() +
		" -Dhttp.nonProxyHosts=localhost|127.*|[::1] -Djavax.net.ssl.trustStoreType=JKS -Djavax.net.ssl.trustStore=" + quoted)
}
