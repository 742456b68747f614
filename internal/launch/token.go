package launch

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
)

// HashToken is what is kept of a channel's token: nobody can sign in with it.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// IsToken says whether a token is the one of which a hash is kept; no token is that
// of an empty hash.
func IsToken(token, hash string) bool {
	return hash != "" && subtle.ConstantTimeCompare([]byte(HashToken(token)), []byte(hash)) == 1
}
