package millpond

import (
	"strings"
	"testing"
)

func TestSparesOfAPool(t *testing.T) {
	item := func(kv ...string) (out []NameValue) {
		for i := 0; i < len(kv); i += 2 {
			out = append(out, NameValue{kv[i], kv[i+1]})
		}
		return out
	}
	for _, c := range []struct {
		spec PoolSpec
		want int // with a default of 2
		err  string
	}{
		{PoolSpec{}, 2, ""},
		{PoolSpec{Metadata: item("mine", "1", MetadataSpares, "3")}, 3, ""},
		{PoolSpec{Metadata: item(MetadataSpares, "0")}, 0, ""},
		{PoolSpec{Metadata: item(MetadataSpares, "100", MetadataClones, "ON")}, 100, ""},
		{PoolSpec{Metadata: item(MetadataSpares, "101")}, 101, "0 to 100"},
		{PoolSpec{Metadata: item(MetadataSpares, "-1")}, 0, "0 to 100"},
		{PoolSpec{Metadata: item(MetadataSpares, "+1")}, 1, "0 to 100"},
		{PoolSpec{Metadata: item(MetadataSpares, "")}, 0, "0 to 100"},
		{PoolSpec{Metadata: item(MetadataSpares, "many")}, 0, "0 to 100"},
		{PoolSpec{Metadata: item(MetadataClones, "off")}, 0, ""},
		{PoolSpec{Metadata: item(MetadataClones, "no")}, 2, "on or off"},
		{PoolSpec{Metadata: item(MetadataClones, "Off", MetadataSpares, "0")}, 0, ""},
		{PoolSpec{Metadata: item(MetadataClones, "off", MetadataSpares, "1")}, 1, "Leave one"},
		{PoolSpec{InterNode: true}, 0, ""},
		{PoolSpec{InterNode: true, Metadata: item(MetadataSpares, "1")}, 1, "share a network"},
		{PoolSpec{Subnet: "/subscriptions/s/x", Metadata: item(MetadataSpares, "1")}, 1, "share a network"},
	} {
		err := c.spec.CheckCopies()
		if got := c.spec.SparesOr(2); got != c.want {
			t.Errorf("%+v wants %d spares", c.spec, got)
		}
		if (err == nil) != (c.err == "") || err != nil && (!strings.Contains(err.Error(), c.err) || AsError(err).Code != "InvalidPropertyValue") {
			t.Errorf("%+v: %v", c.spec, err)
		}
	}
}
