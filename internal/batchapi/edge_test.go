package batchapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

const testHost = "acct.westus2.batch.azure.com"

// send makes one request with a bearer token (or none) and headers as pairs.
func send(e http.Handler, method, path, body, token string, headers ...string) *httptest.ResponseRecorder {
	if !strings.Contains(path, "api-version=") {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path += sep + "api-version=2024-07-01.20.0"
	}
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = testHost
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w
}

// signed adds the Shared Key of an account to a request for a host.
func signed(e http.Handler, method, path, body, account, key, host string, now time.Time) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = host
	r.Header.Set("ocp-date", now.UTC().Format(http.TimeFormat))
	s := signedFrom(r, account)
	k, _ := base64.StdEncoding.DecodeString(key)
	r.Header.Set("Authorization", "SharedKey "+account+":"+base64.StdEncoding.EncodeToString(sign(k, s.stringToSign(s.variants()[0]))))
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w
}

type errorBody struct {
	Metadata string `json:"odata.metadata"`
	Code     string
	Message  struct{ Lang, Value string }
	Values   []struct{ Key, Value string }
}

// refused checks the shape of an error and gives it back.
func refused(t *testing.T, w *httptest.ResponseRecorder, status int, code string) errorBody {
	t.Helper()
	var b errorBody
	if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil {
		t.Fatalf("status %d, body %q: %v", w.Code, w.Body, err)
	}
	if w.Code != status || b.Code != code {
		t.Fatalf("answer is %d %s, not %d %s: %s %v", w.Code, b.Code, status, code, b.Message.Value, b.Values)
	}
	if b.Message.Lang != "en-US" || !regexp.MustCompile(`\nRequestId:[0-9a-f-]{36}\nTime:20\d\d-\d\d-\d\dT[\d:.]+Z$`).MatchString(b.Message.Value) ||
		!strings.Contains(b.Metadata, "/$metadata#Microsoft.Azure.Batch.Protocol.Entities.Container.errors/@Element") || w.Header().Get("request-id") == "" ||
		!strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		t.Errorf("the error has the wrong shape: %+v %v", b, w.Header())
	}
	return b
}

// concrete fills a route's path.
func concrete(path string) string {
	path = strings.ReplaceAll(path, "({key})", "(thumbprintAlgorithm=sha1,thumbprint=AB)")
	return regexp.MustCompile(`\{[^}]+\}`).ReplaceAllString(path, "x1")
}

func TestEveryRouteRefusesWhoMayNot(t *testing.T) {
	e, _ := newEdge(t)
	for _, route := range e.Routes() {
		path := concrete(route.Path)
		check := func(name string, w *httptest.ResponseRecorder, status int) {
			t.Helper()
			if w.Code != status {
				t.Errorf("%s: %s gets %d, not %d: %s", route.Name, name, w.Code, status, w.Body)
			}
			if status == http.StatusUnauthorized && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer authorization_uri=") {
				t.Errorf("%s: %s gets no challenge", route.Name, name)
			}
		}
		check("nobody at all", send(e, route.Method, path, "{}", ""), 401)
		check("a bad token", send(e, route.Method, path, "{}", "forged"), 401)
		check("a token of another tenant", send(e, route.Method, path, "{}", "stranger"), 401)
		check("an unknown scheme", send(e, route.Method, path, "{}", "", "Authorization", "Basic YTpi"), 401)
		check("a caller without rights", send(e, route.Method, path, "{}", "nobody"), 403)
		if !strings.HasSuffix(route.Action, "/read") {
			check("a reader", send(e, route.Method, path, "{}", "reader"), 403)
		}
		now := e.Clock.Now()
		q := path + "?api-version=2022-10-01.16.0"
		check("another account's key", signed(e, route.Method, q, "{}", "other", "YW4gZW50aXJlbHkgZGlmZmVyZW50IGtleSBvZiBvdGhlcg==", testHost, now), 403)
		check("a wrong key", signed(e, route.Method, q, "{}", "acct", "YW4gZW50aXJlbHkgZGlmZmVyZW50IGtleSBvZiBvdGhlcg==", testHost, now), 403)
		check("a disabled key", signed(e, route.Method, q, "{}", "keyless", vectorKey, "keyless.westus2.batch.azure.com", now), 403)
		if !strings.HasPrefix(route.Action, "Microsoft.Batch/batchAccounts/") {
			t.Errorf("%s names no right", route.Name)
		}
		if (route.Handle == nil) != (route.Refused != "") {
			t.Errorf("%s: either a handler or a refusal", route.Name)
		}
	}
	b := refused(t, send(e, "GET", "/pools", "", "nobody"), 403, "InsufficientAccountPermissions")
	if !strings.Contains(b.Message.Value, "Microsoft.Batch/batchAccounts/pools/read") || !strings.Contains(b.Message.Value, "az role assignment create") {
		t.Errorf("the refusal says %q", b.Message.Value)
	}
}

func TestRefusedOperationsSaySo(t *testing.T) {
	e, _ := newEdge(t)
	for _, route := range e.Routes() {
		if route.Refused == "" {
			continue
		}
		b := refused(t, send(e, route.Method, concrete(route.Path), "{}", "admin"), 400, "NotImplemented")
		if !strings.Contains(b.Message.Value, route.Name) || !strings.Contains(b.Message.Value, "docs/wire") {
			t.Errorf("%s says %q", route.Name, b.Message.Value)
		}
	}
}

func TestEveryOperationOfTheReferenceHasARoute(t *testing.T) {
	e, _ := newEdge(t)
	router := azwire.NewRouter(e.Routes())
	for _, op := range strings.Split(strings.TrimSpace(`
POST /pools|GET /pools|GET /pools/p|HEAD /pools/p|PATCH /pools/p|POST /pools/p/updateproperties|DELETE /pools/p|POST /pools/p/enableautoscale
POST /pools/p/disableautoscale|POST /pools/p/evaluateautoscale|POST /pools/p/resize|POST /pools/p/stopresize|POST /pools/p/removenodes|GET /supportedimages
GET /nodecounts|GET /poolusagemetrics|GET /lifetimepoolstats|GET /pools/p/nodes|GET /pools/p/nodes/n|POST /pools/p/nodes/n/users|PUT /pools/p/nodes/n/users/u
DELETE /pools/p/nodes/n/users/u|POST /pools/p/nodes/n/reboot|POST /pools/p/nodes/n/reimage|POST /pools/p/nodes/n/deallocate|POST /pools/p/nodes/n/start
POST /pools/p/nodes/n/disablescheduling|POST /pools/p/nodes/n/enablescheduling|GET /pools/p/nodes/n/remoteloginsettings|GET /pools/p/nodes/n/rdp
POST /pools/p/nodes/n/uploadbatchservicelogs|GET /pools/p/nodes/n/extensions|GET /pools/p/nodes/n/extensions/x|GET /jobs/j/tasks/t/files|GET /pools/p/nodes/n/files
GET /jobs/j/tasks/t/files/wd%2Fa|HEAD /jobs/j/tasks/t/files/wd/a|DELETE /jobs/j/tasks/t/files/a|GET /pools/p/nodes/n/files/a/b/c|HEAD /pools/p/nodes/n/files/a
DELETE /pools/p/nodes/n/files/a|POST /jobs|GET /jobs|GET /jobschedules/s/jobs|GET /jobs/j|PATCH /jobs/j|PUT /jobs/j|DELETE /jobs/j|POST /jobs/j/disable
POST /jobs/j/enable|POST /jobs/j/terminate|GET /jobs/j/taskcounts|GET /jobs/j/jobpreparationandreleasetaskstatus|GET /lifetimejobstats|POST /jobschedules
GET /jobschedules|GET /jobschedules/s|HEAD /jobschedules/s|PATCH /jobschedules/s|PUT /jobschedules/s|DELETE /jobschedules/s|POST /jobschedules/s/disable
POST /jobschedules/s/enable|POST /jobschedules/s/terminate|POST /jobs/j/tasks|POST /jobs/j/addtaskcollection|GET /jobs/j/tasks|GET /jobs/j/tasks/t|PUT /jobs/j/tasks/t
DELETE /jobs/j/tasks/t|POST /jobs/j/tasks/t/terminate|POST /jobs/j/tasks/t/reactivate|GET /jobs/j/tasks/t/subtasksinfo|GET /applications|GET /applications/a
POST /certificates|GET /certificates|GET /certificates(thumbprintAlgorithm=sha1,thumbprint=ab)|DELETE /certificates(thumbprintAlgorithm=sha1,thumbprint=ab)
POST /certificates(thumbprintAlgorithm=sha1,thumbprint=ab)/canceldelete`), "\n") {
		for _, o := range strings.Split(op, "|") {
			method, path, _ := strings.Cut(o, " ")
			if route, _, _ := router.Match(method, path); route == nil {
				t.Errorf("no route for %s", o)
			}
		}
	}
}

// TestCommonParameters: what every operation takes is checked on every one.
func TestCommonParameters(t *testing.T) {
	e, _ := newEdge(t)
	for _, v := range []string{"x", "-1", "1.5", "99999999999"} {
		refused(t, send(e, "GET", "/pools?timeout="+v, "", "admin"), 400, "InvalidQueryParameterValue")
		refused(t, send(e, "DELETE", "/jobs/j?timeOut="+v, "", "admin"), 400, "InvalidQueryParameterValue")
	}
	for _, q := range []string{"force=perhaps", "force=1", "recursive=yes"} {
		refused(t, send(e, "DELETE", "/jobs/j?"+q, "", "admin"), 400, "InvalidQueryParameterValue")
	}
	for _, member := range []string{`"targetDedicatedNodes":7`, `"resizeTimeout":"PT20M"`, `"enableAutoScale":true`, `"autoScaleFormula":"$TargetDedicatedNodes=1"`} {
		refused(t, send(e, "PATCH", "/pools/mypool", "{"+member+"}", "admin"), 400, "UnsupportedProperty")
	}
	for _, day := range []string{"2026-01-01", "2026-01-01T08:00Z", "2026-01-01T08:00:00Z"} {
		if w := send(e, "GET", "/poolusagemetrics?starttime="+day, "", "admin"); w.Code != 200 {
			t.Errorf("since %s: %d %s", day, w.Code, w.Body)
		}
	}
	refused(t, send(e, "GET", "/pools", "", "admin", "ocp-date", "yesterday"), 400, "InvalidHeaderValue")
	for _, q := range []string{"timeout=0", "timeout=30", "timeOut=3600", "timeout=", "force=True", "recursive=false"} {
		if w := send(e, "GET", "/pools?"+q, "", "admin", "ocp-date", "Tue, 01 Oct 2024 12:00:00 GMT"); w.Code != 200 {
			t.Errorf("%s: %d %s", q, w.Code, w.Body)
		}
	}
}

func TestAccountsAndVersions(t *testing.T) {
	e, _ := newEdge(t)
	refused(t, send(e, "GET", "/pools?api-version=", "", "admin"), 400, "MissingRequiredQueryParameter")
	for _, v := range []string{"garbage", "2017-01-01.4.0", "2024-13-01", "2024-07-01.20", "1.0"} {
		refused(t, send(e, "GET", "/pools?api-version="+v, "", "admin"), 400, "UnsupportedRequestVersion")
	}
	for _, v := range []string{"2018-08-01.7.0", "2020-03-01.11.0", "2024-07-01.20.0", "2025-06-01", "2026-10-01-preview"} {
		if w := send(e, "GET", "/pools?api-version="+v, "", "admin"); w.Code != 200 {
			t.Errorf("%s: %d %s", v, w.Code, w.Body)
		}
	}
	refused(t, send(e, "GET", "/pools", "", "admin", "Host", "nobody.westus2.batch.azure.com"), 404, "ResourceNotFound")
	refused(t, send(e, "GET", "/pools", "", "admin", "Host", "acct.eastus.batch.azure.com"), 404, "ResourceNotFound")
	refused(t, send(e, "GET", "/pools", "", "admin", "Host", "127.0.0.1:7443"), 400, "HostInformationNotPresent")
	if w := send(e, "GET", "/pools", "", "admin", "Host", "ACCT.westus2.batch.local:7443"); w.Code != 200 {
		t.Errorf("another batch host: %d %s", w.Code, w.Body)
	}
	w := send(e, "PUT", "/pools", "{}", "admin")
	refused(t, w, 405, "UnsupportedHttpVerb")
	if w.Header().Get("Allow") == "" {
		t.Error("no Allow header")
	}
	refused(t, send(e, "GET", "/nothing/here", "", "admin"), 404, "ResourceNotFound")
}

// Every operation is there for clients of every api-version since 2019-08-01; those
// for certificates end with one, and say so.
func TestEveryOperationOfEveryVersion(t *testing.T) {
	e, _ := newEdge(t)
	for _, v := range []string{"2019-08-01.10.0", "2020-03-01.11.0", "2020-09-01.12.0", "2021-06-01.14.0", "2022-01-01.15.0", "2022-10-01.16.0", "2023-05-01.17.0", "2023-11-01.18.0",
		"2024-02-01.19.0", "2024-07-01.20.0", "2025-06-01", "2026-10-01"} {
		for _, route := range e.Routes() {
			path := concrete(route.Path) + "?api-version=" + v
			if strings.HasPrefix(route.Path, "/certificates") && v >= certificatesEnd {
				refused(t, send(e, route.Method, path, "{}", "admin"), 400, "NotImplemented")
				continue
			}
			// Who may not has come past the version.
			if w := send(e, route.Method, path, "{}", "nobody"); w.Code != http.StatusForbidden {
				t.Errorf("%s of %s: %d %s", route.Name, v, w.Code, w.Body)
			}
		}
		refused(t, send(e, "GET", "/no-such-operation?api-version="+v, "", "nobody"), 404, "ResourceNotFound")
	}
}

// The order of jobs is in no model of the SDK's version that we decode with.
func TestJobDefaultOrder(t *testing.T) {
	e, s := newEdge(t)
	for order, oldest := range map[string]bool{"creationtime": true, "none": false} {
		if w := send(e, "POST", "/pools?api-version=2025-06-01", merged(t, galleryPool, `{"id":"`+order+`","taskSchedulingPolicy":{"nodeFillType":"pack","jobDefaultOrder":"`+order+`"}}`), "admin"); w.Code != 201 {
			t.Fatalf("%s: %d %s", order, w.Code, w.Body)
		}
		if got := s.pools[millpond.PoolID(order).Key()].Spec; got.OldestJobFirst != oldest || got.FillType != millpond.FillPack {
			t.Errorf("%s: %+v", order, got)
		}
		w := send(e, "GET", "/pools/"+order+"?api-version=2025-06-01", "", "admin")
		if strings.Contains(w.Body.String(), `"jobDefaultOrder":"creationtime"`) != oldest || !strings.Contains(w.Body.String(), `"nodeFillType":"pack"`) {
			t.Errorf("%s is told as %s", order, w.Body)
		}
	}
	refused(t, send(e, "POST", "/pools", merged(t, galleryPool, `{"taskSchedulingPolicy":{"nodeFillType":"pack","jobDefaultOrder":"oldest"}}`), "admin"), 400, "InvalidPropertyValue")
}

func TestDirectAddressKeepsItsPrefix(t *testing.T) {
	e, s := newEdge(t)
	s.pools["p1"], s.pools["p2"] = millpond.Pool{Spec: millpond.PoolSpec{ID: "p1"}}, millpond.Pool{Spec: millpond.PoolSpec{ID: "p2"}}
	path := "/batch/acct.westus2/pools?maxresults=1&api-version=2022-10-01.16.0&$select=id%2Curl"
	for range 2 {
		w := signed(e, "GET", path, "", "acct", vectorKey, "127.0.0.1:7443", e.Clock.Now())
		var b struct {
			Value    []struct{ URL, ID string }
			NextLink string `json:"odata.nextLink"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil || w.Code != 200 || len(b.Value) != 1 || b.Value[0].URL != "http://127.0.0.1:7443/batch/acct.westus2/pools/"+b.Value[0].ID {
			t.Fatalf("%d %s %v", w.Code, w.Body, err)
		}
		if b.NextLink == "" {
			if strings.Contains(w.Body.String(), "nextLink") {
				t.Error("the last page has a nextLink")
			}
			return
		}
		rest, ok := strings.CutPrefix(b.NextLink, "http://127.0.0.1:7443")
		if !ok || !strings.Contains(rest, "maxresults=1&api-version=2022-10-01.16.0&$select=id%2Curl&$skiptoken=") {
			t.Fatalf("nextLink is %s", b.NextLink)
		}
		path = rest
	}
	t.Error("the list does not end")
}

const galleryPool = `{"id":"mypool","vmSize":"Standard_A1_v2","virtualMachineConfiguration":{"imageReference":{"virtualMachineImageId":"/subscriptions/{sub}/resourceGroups/{rg}/providers/Microsoft.Compute/galleries/{gallery}/images/{definition}/versions/{version}"},"nodeAgentSKUId":"batch.node.ubuntu 16.04"},"targetDedicatedNodes":2}`

// Golden bodies of real clients (arm-and-identity.md §4.7) and the answers of
// every operation, in an order in which each has what it needs.
func TestOperations(t *testing.T) {
	e, s := newEdge(t)
	s.nodes["n1"] = sampleNode(s.now())
	s.files["workitems/j/job-1/t1/stdout.txt"] = []byte("hello world")
	s.files["workitems/j/job-1/t1/wd/a b.txt"] = []byte("x")
	tag := ""
	for i, c := range []struct {
		method, path, body string
		status             int
		headers            []string
		want               string // regular expression over headers and body
	}{
		{"POST", "/pools", galleryPool, 201, nil, `Dataserviceid:\[https?://acct.westus2.batch.azure.com/pools/mypool\].*Etag:\[0x8D.*Location:\[http.*/pools/mypool\]`},
		{"POST", "/pools", galleryPool, 409, nil, `PoolExists`},
		{"HEAD", "/pools/MyPool", "", 200, nil, `Etag`},
		{"HEAD", "/pools/other", "", 404, nil, ``},
		{"GET", "/pools/mypool?$select=id,metadata", "", 200, nil, `"id":"mypool"`},
		{"GET", "/pools/mypool?$select=ID", "", 400, nil, `InvalidQueryParameterValue`},
		{"GET", "/pools?%24filter=startswith%28id%2C%27my%27%29+and+state+eq+%27ACTIVE%27", "", 200, nil, `"value":\[\{.*"mypool"`},
		{"GET", "/pools?$filter=state%20eq%20'deleting'", "", 200, nil, `"value":\[\]\}`},
		{"GET", "/pools?$filter=nodes%20eq%201", "", 400, nil, `InvalidQueryParameterValue.*cannot be filtered by`},
		{"GET", "/pools?maxresults=-5", "", 400, nil, `InvalidQueryParameterValue.*"-5".*MaxResults cannot be less than 1`},
		{"GET", "/pools?maxresults=1001", "", 400, nil, `OutOfRangeQueryParameterValue`},
		{"GET", "/pools?$skiptoken=zzz", "", 400, nil, `InvalidQueryParameterValue`},
		{"GET", "/pools/mypool", "", 304, []string{"If-None-Match", "*"}, ``},
		{"GET", "/pools/mypool", "", 304, []string{"If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT"}, ``},
		{"GET", "/pools/mypool", "", 400, []string{"If-Match", "*", "If-None-Match", "x"}, `MultipleConditionHeadersNotSupported`},
		{"PATCH", "/pools/mypool", `{"metadata":[{"name":"a","value":"b"},{"name":"millpond:warning","value":"echoed"}]}`, 412, []string{"If-Match", "0x8D0"}, `ConditionNotMet`},
		{"PATCH", "/pools/mypool", `{"metadata":[{"name":"a","value":"b"},{"name":"millpond:warning","value":"echoed"}]}`, 200, []string{"If-Match", "*"}, `Etag`},
		{"POST", "/pools/mypool/updateproperties", `{"metadata":[],"certificateReferences":[],"applicationPackageReferences":[],"startTask":{"commandLine":"true"}}`, 204, nil, ``},
		{"POST", "/pools/mypool/resize", `{"targetDedicatedNodes":3}`, 202, nil, `Etag`},
		{"POST", "/pools/mypool/resize", `{}`, 400, nil, `MissingRequiredProperty`},
		{"POST", "/pools/mypool/stopresize", ``, 202, nil, ``},
		{"POST", "/pools/mypool/removenodes", `{"nodeList":["n1"],"nodeDeallocationOption":"TaskCompletion"}`, 202, nil, ``},
		{"POST", "/pools/mypool/removenodes", `{"nodeList":[]}`, 400, nil, `InvalidPropertyValue`},
		{"GET", "/supportedimages?$filter=verificationType%20eq%20'verified'", "", 200, nil, `"canonical".*"version":"latest"`},
		{"GET", "/nodeagentskus?api-version=2018-08-01.7.0", "", 200, nil, `"id":"batch.node.debian 12".*verifiedImageReferences`},
		{"GET", "/nodecounts", "", 200, nil, `"idle":2.*"total":3`},
		{"GET", "/nodecounts?maxresults=11&api-version=2022-10-01.16.0", "", 400, nil, `OutOfRange`},
		{"GET", "/pools/mypool/nodes", "", 200, nil, `"bootPhases":\{"boot":1500\}`},
		{"GET", "/pools/mypool/nodes?$filter=startTaskInfo/exitCode%20ne%200%20or%20state%20eq%20'idle'", "", 200, nil, `"n1"`},
		{"GET", "/pools/mypool/nodes/n1", "", 200, nil, `"errorDetails":\[\{"name":"Stage","value":"boot"\}.*"exactVersion":"1.2.3"`},
		{"GET", "/pools/mypool/nodes/n9", "", 404, nil, `NodeNotFound`},
		{"POST", "/pools/mypool/nodes/n1/reboot", ``, 202, nil, ``},
		{"POST", "/pools/mypool/nodes/n1/reboot", `{"nodeRebootOption":"now"}`, 400, nil, `requeue, terminate`},
		{"POST", "/pools/mypool/nodes/n1/reimage", `{"nodeReimageOption":"terminate"}`, 202, nil, ``},
		{"POST", "/pools/mypool/nodes/n1/deallocate", `{"nodeDeallocateOption":"off"}`, 400, nil, `requeue, terminate`},
		{"POST", "/pools/mypool/nodes/n1/deallocate", `{"nodeDeallocateOption":"retaineddata"}`, 202, nil, ``},
		{"POST", "/pools/mypool/nodes/n1/start", ``, 202, nil, ``},
		{"POST", "/pools/mypool/nodes/n1/disablescheduling", `{}`, 200, nil, ``},
		{"POST", "/pools/mypool/nodes/n1/enablescheduling", ``, 200, nil, ``},
		{"GET", "/pools/mypool/nodes/n1/extensions", "", 200, nil, `"value":\[\]`},
		{"GET", "/pools/mypool/nodes/n1/files?recursive=true", "", 200, nil, `"contentLength":"11".*workitems/j/job-1/t1/stdout.txt`},
		{"GET", "/pools/mypool/nodes/n1/files/workitems%2Fj%2Fjob-1%2Ft1%2Fstdout.txt", "", 200, nil, `hello world`},
		{"POST", "/jobs", `{"id":"j","poolInfo":{"poolId":"mypool"}}`, 201, nil, `Location`},
		{"POST", "/jobs", `{"id":"j","poolInfo":{"poolId":"mypool"}}`, 409, nil, `JobExists`},
		{"POST", "/jobs", `{"id":"j2","poolInfo":{"poolId":"p"},"priority":2000}`, 400, nil, `OutOfRangePriority`},
		{"GET", "/jobs/j", "", 200, nil, `"maxWallClockTime":"P10675199DT2H48M5.4775807S".*"executionInfo":\{"poolId":"mypool","startTime"`},
		{"GET", "/jobs?$filter=executionInfo/poolId%20eq%20'mypool'&$expand=stats", "", 200, nil, `"id":"j"`},
		{"PATCH", "/jobs/j", `{"priority":5,"constraints":{"maxTaskRetryCount":2}}`, 200, nil, `Etag`},
		{"PUT", "/jobs/j", `{"poolInfo":{"poolId":"mypool"},"onAllTasksComplete":"noaction"}`, 200, nil, ``},
		{"PUT", "/jobs/j", `{}`, 400, nil, `MissingRequiredProperty`},
		{"POST", "/jobs/j/disable", `{"disableTasks":"requeue"}`, 202, nil, ``},
		{"POST", "/jobs/j/disable", `{}`, 400, nil, `MissingRequiredProperty`},
		{"POST", "/jobs/j/enable", ``, 202, nil, ``},
		{"GET", "/jobs/j/taskcounts", "", 200, nil, `"taskCounts":\{"active":1,"running":2,"completed":3,"succeeded":2,"failed":1\},"taskSlotCounts":\{"active":10`},
		{"GET", "/jobs/j/taskcounts?api-version=2020-03-01.11.0", "", 200, nil, `"active":1,"running":2,"completed":3,"succeeded":2,"failed":1\}`},
		{"GET", "/jobs/j/jobpreparationandreleasetaskstatus", "", 409, nil, `JobPreparationTaskNotSpecified`},
		{"POST", "/jobs/j/tasks", `{"id":"t1","commandLine":"echo hi","constraints":{"maxTaskRetryCount":1,"retentionTime":"PT1H"}}`, 201, nil, `Location:\[.*/jobs/j/tasks/t1\]`},
		{"POST", "/jobs/j/tasks", `{"id":"t 2","commandLine":"x"}`, 400, nil, `InvalidPropertyValue`},
		{"POST", "/jobs/j/addtaskcollection", `{"value":[{"id":"t1","commandLine":"x"},{"id":"t3","commandLine":"x"},{"id":"t4"},7,{"id":"t5","commandLine":"x","containerSettings":{"imageName":"i","registry":{"identityReference":{"resourceId":"x"}}}}]}`, 200, nil,
			`"clienterror","taskId":"t1","error":\{"code":"TaskExists","message":\{"lang".*"status":"success","taskId":"t3","eTag":"0x8D.*"location":"http.*MissingRequiredProperty.*"taskId":"".*InvalidRequestBody.*UnsupportedProperty`},
		{"POST", "/jobs/none/addtaskcollection", `{"value":[{"id":"t4"}]}`, 404, nil, `JobNotFound`},
		{"GET", "/jobs/j/tasks", "", 200, nil, `"t1".*"t3"`},
		{"GET", "/jobs/j/tasks/t1", "", 200, nil, `Dataserviceid.*"retentionTime":"PT1H".*"executionInfo":\{"requeueCount":0,"retryCount":0\}`},
		{"GET", "/jobs/j/tasks/t1/files", "", 409, nil, `TaskFilesUnavailable`},
		{"GET", "/jobs/j/tasks/t1/subtasksinfo", "", 200, nil, `"value":\[\]`},
		{"PUT", "/jobs/j/tasks/t1", `{"constraints":{"maxWallClockTime":"PT5M"}}`, 200, nil, ``},
		{"POST", "/jobs/j/tasks/t1/terminate", ``, 204, nil, ``},
		{"GET", "/jobs/j/tasks/t1", "", 200, nil, `"failureInfo":\{"category":"usererror".*"previousState":"active"`},
		{"POST", "/jobs/j/tasks/t1/reactivate", ``, 204, nil, ``},
		{"GET", "/jobs/j/tasks/t1/files?", "", 200, []string{"run", "t1"}, `"name":"stdout.txt".*"name":"wd"`},
		{"GET", "/jobs/j/tasks/t1/files?recursive=true&$filter=startswith(name,'WD/')&maxresults=1", "", 200, nil, `"value":\[\{"isDirectory":false,"name":"wd/a b.txt","properties":\{"contentLength":"1".*"url":"http.*/jobs/j/tasks/t1/files/wd/a%20b.txt"\}\]\}`},
		{"GET", "/jobs/j/tasks/t1/files/stdout.txt", "", 200, nil, `Content-Length:\[11\] Content-Type:\[application/octet-stream\].*Ocp-Batch-File-Isdirectory:\[false\] Ocp-Batch-File-Mode.*hello world$`},
		{"GET", "/jobs/j/tasks/t1/files/stdout.txt", "", 200, []string{"ocp-range", "bytes=6-8"}, `Content-Length:\[3\].* wor$`},
		{"GET", "/jobs/j/tasks/t1/files/stdout.txt", "", 200, []string{"ocp-range", "bytes=6-"}, ` world$`},
		{"GET", "/jobs/j/tasks/t1/files/stdout.txt", "", 416, []string{"ocp-range", "bytes=11-"}, `InvalidRange`},
		{"GET", "/jobs/j/tasks/t1/files/stdout.txt", "", 304, []string{"If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT"}, ``},
		{"GET", "/jobs/j/tasks/t1/files/wd%2Fa%20b.txt", "", 200, nil, ` x$`},
		{"GET", "/jobs/j/tasks/t1/files/wd", "", 409, nil, `directory`},
		{"HEAD", "/jobs/j/tasks/t1/files/wd", "", 200, nil, `Isdirectory:\[true\]`},
		{"GET", "/jobs/j/tasks/t1/files/..%2F..%2Fsecret", "", 400, nil, `InvalidUri`},
		{"HEAD", "/jobs/j/tasks/t1/files/nothing", "", 404, nil, ``},
		{"DELETE", "/jobs/j/tasks/t1/files/stdout.txt", "", 200, nil, ``},
		{"DELETE", "/jobs/j/tasks/t1", ``, 200, nil, ``},
		{"POST", "/jobs/j/terminate?force=true", ``, 202, nil, ``},
		{"GET", "/jobs/j", "", 200, nil, `"terminateReason":"UserTerminate"`},
		{"DELETE", "/jobs/j", ``, 202, nil, ``},
		{"DELETE", "/pools/mypool", ``, 412, []string{"If-Unmodified-Since", "Fri, 01 Jan 2010 00:00:00 GMT"}, `ConditionNotMet`},
		{"DELETE", "/pools/mypool", ``, 202, nil, ``},
		{"GET", "/jobschedules", "", 200, nil, `"value":\[\]`},
		{"HEAD", "/jobschedules/s", "", 404, nil, ``},
		{"GET", "/applications", "", 200, nil, `"value":\[\]`},
		{"GET", "/certificates", "", 200, nil, `"value":\[\]`},
		{"GET", "/certificates(thumbprintAlgorithm=sha1,thumbprint=ab)", "", 404, nil, `CertificateNotFound`},
		{"GET", "/certificates(thumbprintAlgorithm=md5,thumbprint=ab)", "", 400, nil, `InvalidUri`},
		{"POST", "/certificates", `{"thumbprint":"ab","thumbprintAlgorithm":"sha1"}`, 400, nil, `MissingRequiredProperty.*data`},
		{"POST", "/certificates", `{"thumbprint":"ab","thumbprintAlgorithm":"sha1","data":"c2VjcmV0!","certificateFormat":"cer"}`, 400, nil, `InvalidPropertyValue.*base64`},
		{"POST", "/certificates", `{"thumbprint":"` + thumbprintA + `","thumbprintAlgorithm":"SHA1","data":"AAEC","password":"p"}`, 201, nil, `Location.*certificates\(thumbprintAlgorithm=sha1,thumbprint=` + thumbprintA},
		{"GET", "/certificates(thumbprintAlgorithm=sha1,thumbprint=" + thumbprintA + ")", "", 200, nil, `"publicData":"AAEC".*"state":"active"`},
		{"GET", "/certificates(thumbprintAlgorithm=sha1,thumbprint=" + thumbprintA + ")?$select=thumbprint", "", 200, nil, `\{"odata.metadata":"[^"]*","thumbprint":"` + thumbprintA + `"\}`},
		{"GET", "/certificates?$filter=state%20eq%20'deleting'", "", 200, nil, `"value":\[\]`},
		{"GET", "/certificates?$filter=state%20eq%20'active'&$select=state", "", 200, nil, `"value":\[\{"state":"active"\}\]`},
		{"POST", "/certificates(thumbprintAlgorithm=sha1,thumbprint=" + thumbprintA + ")/canceldelete", "", 409, nil, `CertificateStateActive`},
		{"DELETE", "/certificates(thumbprintAlgorithm=sha1,thumbprint=" + thumbprintA + ")", "", 202, nil, ``},
		{"GET", "/certificates?$filter=state%20ne%20'active'", "", 200, nil, `"previousState":"active".*"state":"deleting"`},
		{"GET", "/certificates?api-version=2025-06-01", "", 400, nil, `NotImplemented.*2024-07-01.20.0`},
		{"POST", "/certificates?api-version=2025-06-01", "{}", 400, nil, `NotImplemented`},
	} {
		if len(c.headers) > 0 && c.headers[0] == "run" {
			task := s.tasks["j"]["t1"]
			task.Node, task.Pool, task.Directory, task.Started = "n1", "mypool", "workitems/j/job-1/t1", s.now()
			s.tasks["j"]["t1"], c.headers = task, nil
		}
		w := send(e, c.method, c.path, c.body, "admin", c.headers...)
		all := fmt.Sprint(w.Header(), " ", w.Body)
		if w.Code != c.status || !regexp.MustCompile(`(?s)`+c.want).MatchString(all) {
			t.Fatalf("%d: %s %s: %d, want %d and %s:\n%s", i, c.method, c.path, w.Code, c.status, c.want, all)
		}
		if w.Header().Get("DataServiceVersion") != "3.0" || w.Header().Get("request-id") == "" {
			t.Errorf("%s %s lacks common headers: %v", c.method, c.path, w.Header())
		}
		if w.Code >= 400 && c.method != "HEAD" {
			var b errorBody
			if json.Unmarshal(w.Body.Bytes(), &b) != nil {
				t.Errorf("%s %s: %s", c.method, c.path, w.Body)
			}
			refused(t, w, c.status, b.Code)
		}
		if w.Code != 200 && w.Code < 400 && w.Body.Len() > 0 {
			t.Errorf("%s %s: %d has a body", c.method, c.path, w.Code)
		}
		tag = w.Header().Get("ETag")
	}
	_ = tag
}

func sampleNode(now time.Time) millpond.Node {
	zero := 0
	return millpond.Node{ID: "n1", Pool: "mypool", State: millpond.NodeIdle, StateTransition: now, Scheduling: millpond.SchedulingEnabled, Dedicated: true, VMSize: "Standard_A1_v2",
		Allocated: now, LastBoot: now, Address: "10.0.0.4", AgentVersion: "1.0", AgentUpdated: now,
		Boot:          millpond.BootImage{VersionID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/g/images/d/versions/1.2.3"},
		StartTask:     &millpond.StartTask{CommandLine: "true", WaitForSuccess: true},
		StartTaskInfo: &millpond.StartTaskInfo{State: "completed", StartTime: now, EndTime: now, ExitCode: &zero, Result: "success"},
		Errors:        []millpond.NodeError{{Code: "DiskFull", Message: "Full.", Details: []millpond.NameValue{{Name: "Stage", Value: "boot"}}, Time: now}},
		Phases:        map[string]time.Duration{millpond.PhaseBoot: 1500 * time.Millisecond},
		RecentTasks:   []millpond.RecentTask{{Job: "j", Task: "t", State: millpond.TaskCompleted}}}
}

func TestWarningsOfAPoolAreSeen(t *testing.T) {
	e, _ := newEdge(t)
	w := send(e, "POST", "/pools", strings.Replace(galleryPool, `"targetDedicatedNodes":2`, `"targetDedicatedNodes":1000,"metadata":[{"name":"mine","value":"1"}]`, 1), "admin")
	if w.Code != 201 || len(w.Header().Values("Warning")) != 2 || w.Header().Values("Warning")[1] != `299 millpond "Use \"PT30M\"."` {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	w = send(e, "GET", "/pools/mypool", "", "admin")
	var p struct {
		Warnings     []millpond.Warning
		Metadata     []millpond.NameValue
		ResizeErrors []struct {
			Code   string
			Values []millpond.NameValue
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) != 2 || p.Warnings[0].Code != "TooFewReplicas" || len(p.Metadata) != 3 || p.Metadata[1].Name != "millpond:warning" ||
		len(p.ResizeErrors) != 1 || p.ResizeErrors[0].Values[1].Name != "Time" || len(w.Header().Values("Warning")) != 2 {
		t.Errorf("%s", w.Body)
	}
}

func TestClientRequestIDIsEchoedOnRequestOnly(t *testing.T) {
	e, _ := newEdge(t)
	if h := send(e, "GET", "/pools", "", "admin", "client-request-id", "abc", "return-client-request-id", "true").Header(); h.Get("client-request-id") != "abc" {
		t.Error("not echoed")
	}
	if h := send(e, "GET", "/pools", "", "admin", "client-request-id", "abc").Header(); h.Get("client-request-id") != "" {
		t.Error("echoed unasked")
	}
}
