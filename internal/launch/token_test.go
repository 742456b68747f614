package launch

import "testing"

func TestIsToken(t *testing.T) {
	hash := HashToken("secret")
	for _, c := range []struct {
		token, hash string
		is          bool
	}{{"secret", hash, true}, {"Secret", hash, false}, {"", hash, false}, {"secret", "", false}, {"", "", false}, {hash, hash, false}} {
		if IsToken(c.token, c.hash) != c.is {
			t.Errorf("%q of %q", c.token, c.hash)
		}
	}
}
