package bucket

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Place is where a bucket is: a local folder, or the URL of a service's bucket.
type Place struct {
	// Dir is the absolute path of a folder, or empty.
	Dir string
	// cloud is the URL in Go CDK's words, or empty.
	cloud string
	// given is the URL as it was written.
	given string
}

// bucketName holds for S3 buckets and Azure containers, in the laxer of both.
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,62}$`)

// parameters are the query parameters that may be given, by scheme, and Go CDK's
// names for them; an empty one is translated by hand.
func parameters(scheme string) map[string]string {
	switch scheme {
	case "s3":
		return map[string]string{"prefix": "prefix", "region": "region", "endpoint": "endpoint", "profile": "profile", "path_style": "use_path_style", "anonymous": "anonymous"}
	case "azblob":
		return map[string]string{"prefix": "prefix", "account": "storage_account", "endpoint": ""}
	}
	return nil
}

// ParsePlace understands a folder's path, file:///FOLDER,
// s3://BUCKET?region=…&prefix=…&endpoint=… and
// azblob://CONTAINER?account=…&prefix=…&endpoint=…. An endpoint is the http or
// https address of a service of that kind that is not the vendor's own, such as
// an emulator. Credentials are never part of it: they come from the environment,
// as the vendors' own programs take them.
func ParsePlace(at string) (Place, error) {
	bad := func(format string, args ...any) (Place, error) {
		return Place{}, fmt.Errorf("%q is not a place for images: %s", at, fmt.Sprintf(format, args...))
	}
	if !strings.Contains(at, "://") {
		if at == "" || strings.ContainsRune(at, 0) {
			return bad("it names no folder")
		}
		dir, err := filepath.Abs(at)
		if err != nil {
			return Place{}, err
		}
		return Place{Dir: dir}, nil
	}
	u, err := url.Parse(at)
	if err != nil {
		return bad("%v", err)
	}
	if u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return bad("it has a user, a fragment or no //; credentials come from the environment")
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("%v", err)
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || len(q) > 0 || !filepath.IsAbs(u.Path) || strings.ContainsRune(u.Path, 0) {
			return bad("write file:///FOLDER")
		}
		return Place{Dir: filepath.Clean(u.Path)}, nil
	case "s3", "azblob":
	default:
		return bad("write a folder, file:///FOLDER, s3://BUCKET or azblob://CONTAINER")
	}
	if !bucketName.MatchString(u.Host) || strings.Trim(u.Path, "/") != "" {
		return bad("write %s://NAME, and what is below it as ?prefix=FOLDER/", u.Scheme)
	}
	may := parameters(u.Scheme)
	out := url.Values{}
	for name, values := range q {
		theirs, ok := may[name]
		if !ok || len(values) != 1 {
			return bad("the parameter %q is not known or given twice; there are %s", name, strings.Join(slices.Sorted(keys(may)), ", "))
		}
		if theirs != "" {
			out.Set(theirs, values[0])
		}
	}
	if p := q.Get("prefix"); p != "" && !strings.HasSuffix(p, "/") {
		return bad("the prefix has to end with a slash")
	}
	if e := q.Get("endpoint"); e != "" {
		a, err := url.Parse(e)
		if err != nil || a.Scheme != "http" && a.Scheme != "https" || a.Host == "" || a.RawQuery != "" || a.User != nil {
			return bad("the endpoint %q has to be the http or https address of a service", e)
		}
		if u.Scheme == "s3" {
			out.Set("hostname_immutable", "true")
			if out.Get("use_path_style") == "" {
				out.Set("use_path_style", "true")
			}
		} else {
			out.Set("protocol", a.Scheme)
			out.Set("domain", a.Host+strings.TrimSuffix(a.Path, "/"))
			out.Set("localemu", "true")
		}
	}
	cloud := url.URL{Scheme: u.Scheme, Host: u.Host, RawQuery: out.Encode()}
	return Place{cloud: cloud.String(), given: at}, nil
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// URL names the place so that ParsePlace finds it again.
func (p Place) URL() string {
	if p.Dir != "" {
		return (&url.URL{Scheme: "file", Path: p.Dir}).String()
	}
	return p.given
}

// String is for people.
func (p Place) String() string {
	if p.Dir != "" {
		return "the folder " + p.Dir
	}
	return p.given
}

// Open opens the bucket, which Close closes. A folder that is not there is made; a
// service is not asked yet, so that one that is away keeps nobody from starting.
func (p Place) Open(ctx context.Context) (Bucket, error) {
	if p.Dir != "" {
		return OpenFolder(p.Dir)
	}
	return openCloud(ctx, p.cloud)
}
