package template

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func testEnv() Env {
	return Env{TenantID: "t", SubscriptionID: "11111111-1111-1111-1111-111111111111", Group: "rg",
		ResourceGroup: map[string]any{"id": "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg", "name": "rg", "location": "westus2"},
		Subscription:  map[string]any{"subscriptionId": "11111111-1111-1111-1111-111111111111", "tenantId": "t"},
		Deployment:    map[string]any{"name": "d"}, Environment: map[string]any{"name": "Millpond"},
		Now: time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC), NewGUID: func() string { return "new" }}
}

// evaluate runs one expression in a template with two parameters and a variable.
func evaluate(t testing.TB, expression string) (any, error) {
	t.Helper()
	tpl, err := Parse([]byte(`{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0",
		"parameters":{"n":{"type":"int"},"o":{"type":"object"}},
		"variables":{"v":"[concat('v', parameters('n'))]","self":"[variables('self')]","copy":[{"name":"loop","count":3,"input":"[mul(copyIndex('loop', 1), 2)]"}]},
		"functions":[{"namespace":"my","members":{"twice":{"parameters":[{"name":"s","type":"string"}],"output":{"type":"string","value":"[concat(parameters('s'), parameters('s'))]"}}}}],"resources":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	e := tpl.evaluator(Values{"n": int64(7), "o": map[string]any{"Key": "val", "list": []any{int64(1), int64(2)}}}, testEnv())
	n, err := parseExpression(expression)
	if err != nil {
		return nil, err
	}
	return e.eval(n)
}

func TestFunctions(t *testing.T) {
	const sub = "/subscriptions/11111111-1111-1111-1111-111111111111"
	for expression, want := range map[string]string{
		// values
		`'it''s'`: `"it's"`, `-12`: `-12`, `true()`: `true`, `null()`: `null`, `string(true())`: `"True"`, `string(createArray(1,'a'))`: `"[1,\"a\"]"`, `bool('TRUE')`: `true`, `int('42')`: `42`, `float('1.5')`: `1.5`, `json('{"a":[1,null]}')`: `{"a":[1,null]}`,
		// parameters and variables, access
		`parameters('N')`: `7`, `variables('v')`: `"v7"`, `variables('loop')`: `[2,4,6]`, `my.twice('ab')`: `"abab"`, `parameters('o').key`: `"val"`, `parameters('o')['KEY']`: `"val"`, `parameters('o').list[1]`: `2`, `parameters('o').?none`: `null`, `parameters('o').list[?9]`: `null`, `tryGet(parameters('o'), 'x', 'y')`: `null`,
		// logic
		`if(true(), 1, json('broken'))`: `1`, `if(equals('a','A'), 1, 2)`: `2`, `and(true(), false(), json('broken'))`: `false`, `or(false(), true(), json('broken'))`: `true`, `not(false())`: `true`, `equals(createObject('a',1), createObject('A',1))`: `true`, `equals(1, '1')`: `false`, `equals(null(), null())`: `true`, `greater(2,1)`: `true`, `lessOrEquals('a','b')`: `true`, `coalesce(null(), 'x')`: `"x"`, `greaterOrEquals(1,2)`: `false`, `less(1,2)`: `true`,
		// numbers
		`add(1,2)`: `3`, `sub(1,2)`: `-1`, `mul(-3,4)`: `-12`, `div(7,2)`: `3`, `mod(7,3)`: `1`, `min(3,1,2)`: `1`, `max(createArray(3,9))`: `9`, `range(3,3)`: `[3,4,5]`,
		// texts
		`concat('a',1,true())`: `"a1True"`, `format('{0}-{1:D3}-{{{1:X2}}}', 'a', 10)`: `"a-010-{0A}"`, `toLower('ÄB')`: `"äb"`, `toUpper('a')`: `"A"`, `trim('  a ')`: `"a"`, `padLeft('7',3,'0')`: `"007"`, `padLeft(7,3)`: `"  7"`, `replace('a-b','-','')`: `"ab"`, `substring('abcdef',2,3)`: `"cde"`, `substring('abc',1)`: `"bc"`, `indexOf('abcABC','CA')`: `2`, `lastIndexOf('abcABC','a')`: `3`, `startsWith('Abc','aB')`: `true`, `endsWith('abc','C')`: `true`, `split('a,b;c', createArray(',',';'))`: `["a","b","c"]`, `split('a,b',',')`: `["a","b"]`, `join(createArray('a',1),'-')`: `"a-1"`, `base64('hé')`: `"aMOp"`, `base64ToString('aMOp')`: `"hé"`, `base64ToJson('eyJhIjoxfQ==')`: `{"a":1}`, `uri('https://a/b/', 'c')`: `"https://a/b/c"`, `uriComponent('a b/c')`: `"a%20b%2Fc"`, `uriComponentToString('a%20b')`: `"a b"`, `length(uniqueString('a'))`: `13`, `equals(uniqueString('a','b'), uniqueString('a','b'))`: `true`, `equals(uniqueString('ab'), uniqueString('a','b'))`: `false`, `length(guid('a'))`: `36`, `dataUriToString(dataUri('x'))`: `"x"`,
		// lists and objects
		`array('a')`: `["a"]`, `createArray()`: `[]`, `concat(createArray(1),createArray(2))`: `[1,2]`, `contains('abc','b')`: `true`, `contains(createArray(1,2),2)`: `true`, `contains(parameters('o'),'KEY')`: `true`, `empty('')`: `true`, `empty(createObject())`: `true`, `empty(null())`: `true`, `length('äö')`: `2`, `first('abc')`: `"a"`, `last(createArray(1,2))`: `2`, `first(createArray())`: `null`, `take(createArray(1,2,3),2)`: `[1,2]`, `skip('abc',1)`: `"bc"`, `skip('abc',9)`: `""`, `take('abc',-1)`: `""`, `union(createArray(1,2),createArray(2,3))`: `[1,2,3]`, `union(createObject('a',createObject('x',1)),createObject('A',createObject('y',2)))`: `{"A":{"x":1,"y":2}}`, `intersection(createArray(1,2),createArray(2,3))`: `[2]`, `items(createObject('b',2,'a',1))`: `[{"key":"a","value":1},{"key":"b","value":2}]`, `objectKeys(createObject('b',2,'a',1))`: `["a","b"]`, `flatten(createArray(createArray(1),createArray(2)))`: `[1,2]`, `indexFromEnd(createArray(1,2),1)`: `2`, `shallowMerge(createArray(createObject('a',1),createObject('a',2)))`: `{"a":2}`,
		`map(createArray(1,2), lambda('x', add(lambdaVariables('x'), 1)))`: `[2,3]`, `filter(createArray(1,2,3), lambda('x', greater(lambdaVariables('x'), 1)))`: `[2,3]`, `sort(createArray(3,1,2), lambda('a','b', less(lambdaVariables('a'), lambdaVariables('b'))))`: `[1,2,3]`, `reduce(createArray(1,2,3), 0, lambda('a','b', add(lambdaVariables('a'), lambdaVariables('b'))))`: `6`, `toObject(createArray('a'), lambda('x', lambdaVariables('x')), lambda('x', 1))`: `{"a":1}`,
		// time and addresses
		`dateTimeAdd('2026-01-31T00:00:00Z','P1D','yyyy-MM-dd')`: `"2026-02-01"`, `dateTimeAdd('2026-01-01T00:00:00Z','-PT1H')`: `"2025-12-31T23:00:00Z"`, `dateTimeFromEpoch(0)`: `"1970-01-01T00:00:00Z"`, `dateTimeToEpoch('1970-01-01T00:01:00Z')`: `60`, `parseCidr('10.1.2.3/24').firstUsable`: `"10.1.2.1"`, `cidrSubnet('10.0.0.0/16', 24, 2)`: `"10.0.2.0/24"`, `cidrHost('10.0.0.0/24', 3)`: `"10.0.0.4"`,
		// resources
		`resourceGroup().location`: `"westus2"`, `subscription().subscriptionId`: `"11111111-1111-1111-1111-111111111111"`, `deployment().name`: `"d"`, `tenant().tenantId`: `"t"`, `environment().name`: `"Millpond"`,
		`resourceId('Microsoft.Network/virtualNetworks/subnets','v','s')`:             `"` + sub + `/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v/subnets/s"`,
		`resourceId('A.B/c/','n')`:                                                    `"` + sub + `/resourceGroups/rg/providers/A.B/c/n"`,
		`resourceId('other','A.B/c','n')`:                                             `"` + sub + `/resourceGroups/other/providers/A.B/c/n"`,
		`resourceId('s','other','A.B/c','n')`:                                         `"/subscriptions/s/resourceGroups/other/providers/A.B/c/n"`,
		`resourceId('22222222-2222-2222-2222-222222222222','other','A.B/c','n')`:      `"/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/other/providers/A.B/c/n"`,
		`subscriptionResourceId('Microsoft.Authorization/roleDefinitions','g')`:       `"` + sub + `/providers/Microsoft.Authorization/roleDefinitions/g"`,
		`extensionResourceId(resourceGroup().id,'Microsoft.Authorization/locks','l')`: `"` + sub + `/resourceGroups/rg/providers/Microsoft.Authorization/locks/l"`,
		`tenantResourceId('Microsoft.Management/managementGroups','m')`:               `"/providers/Microsoft.Management/managementGroups/m"`,
		`resourceId('Microsoft.Network/virtualNetworks/subnets','v/s')`:               `"` + sub + `/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v/subnets/s"`,
		`subscriptionResourceId('Microsoft.Resources/resourceGroups', 'g')`:           `"` + sub + `/resourceGroups/g"`,
	} {
		v, err := evaluate(t, expression)
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		got, _ := json.Marshal(v)
		if string(got) != want {
			t.Errorf("%s is %s, want %s", expression, got, want)
		}
	}
}

func TestFunctionErrors(t *testing.T) {
	for expression, want := range map[string]string{
		`nosuch(1)`:                           "At column 1 of the expression: the template function 'nosuch' is not valid. Supported are: add, and,",
		`concat('a'`:                          "column 11",
		`concat('a') x`:                       "unexpected 'x'",
		`'open`:                               "no closing quote",
		`parameters`:                          "expected '(' after",
		`parameters('nope')`:                  "the parameter 'nope' is not found",
		`variables('nope')`:                   "the variable 'nope' is not found",
		`variables('self')`:                   "is defined by itself",
		`parameters('o').nope`:                "available properties are 'Key, list'",
		`parameters('o').list[5]`:             "the index 5 is out of bounds",
		`div(1,0)`:                            "division by zero",
		`add(9223372036854775807,1)`:          "does not fit",
		`mul(9223372036854775807,2)`:          "does not fit",
		`add('1',1)`:                          "is not a whole number",
		`toLower(1)`:                          "is not a string",
		`if(true(),1)`:                        "takes 3 arguments",
		`substring('abc',2,5)`:                "must refer to a location within the string",
		`reference('x')`:                      "not expected at this location",
		`listKeys('x','2020-01-01')`:          "not expected at this location",
		`utcNow()`:                            "only in the default value of a parameter",
		`newGuid()`:                           "only in the default value of a parameter",
		`copyIndex()`:                         "outside of a copy loop",
		`resourceId('A.B/c')`:                 "at least 2 arguments",
		`resourceId('A.B/c/d','n','m','x')`:   "segments after the provider",
		`json('{')`:                           "is not JSON",
		`range(0,10001)`:                      "from 0 to 10000",
		`format('{1}','a')`:                   "has no argument",
		`fail('my words')`:                    "my words",
		`99999999999999999999`:                "not a whole number of 64 bits",
		`greater('a',1)`:                      "cannot be compared",
		`lambda('x', 1)`:                      "only as an argument",
		strings.Repeat("not(", 80) + "true()": "nested more than",
		`parameters('o')` + strings.Repeat(".a", 80): "accesses in a row",
	} {
		_, err := evaluate(t, expression)
		if err == nil {
			t.Errorf("%s is no error", expression)
			continue
		}
		ok := false
		for _, w := range strings.Split(want, "|") {
			ok = ok || strings.Contains(err.Error(), w)
		}
		if !ok {
			t.Errorf("%s: %v, want %q", expression, err, want)
		}
	}
}

func TestTimeFormats(t *testing.T) {
	now := testEnv().Now
	for layout, want := range map[string]string{"yyyyMMddTHHmmssZ": "20260102T030405Z", "u": "2026-01-02 03:04:05Z", "o": "2026-01-02T03:04:05.6789000Z", "d": "1/2/2026", "H:m:s fff": "3:4:5 678", "MMM d, yyyy": "Jan 2, 2026"} {
		if got, err := formatTime(now, layout); err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", layout, got, err, want)
		}
	}
}

func FuzzExpression(f *testing.F) {
	for _, s := range []string{"parameters('n')", "concat('a', string(createArray(1,2)))", "if(equals(1,2),'a','b').x[0]", "my.twice('a')", "format('{0:D3}', 1)", "resourceId('A.B/c','d')",
		"map(range(0,3), lambda('x', lambdaVariables('x')))", "'a''b'", "json('[1]')[?0].?a", "substring('abc', 1, 1)", "padLeft('a', 5, 'b')", "cidrSubnet('10.0.0.0/8', 32, 5)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := evaluate(t, s)
		if err == nil {
			if _, err := json.Marshal(v); err != nil {
				t.Errorf("%q gives %v, which is not JSON: %v", s, v, err)
			}
		} else if fmt.Sprint(err) == "" {
			t.Errorf("%q: an error without a text", s)
		}
	})
}
