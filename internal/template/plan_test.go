package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	millpond "millpond.dev/millpond"
)

const head = `{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0",`

// fakeRuntime answers for every resource with its id.
type fakeRuntime struct{ asked []string }

func (f *fakeRuntime) Get(id, version string) (any, error) {
	f.asked = append(f.asked, id+" "+version)
	if strings.Contains(id, "missing") {
		return nil, millpond.Errorf(millpond.NotFound, "ResourceNotFound", "not there")
	}
	return map[string]any{"id": id, "properties": map[string]any{"name": id[strings.LastIndexByte(id, '/')+1:]}}, nil
}

func (f *fakeRuntime) List(id, action, version string, _ any) (any, error) {
	return map[string]any{"keys": []any{action}}, nil
}

func expand(t testing.TB, body, parameters string) (*Plan, error) {
	t.Helper()
	tpl, err := Parse([]byte(head + body + "}"))
	if err != nil {
		return nil, err
	}
	given := map[string]any{}
	if parameters != "" {
		v, err := DecodeJSON([]byte(parameters))
		if err != nil {
			t.Fatal(err)
		}
		given = v.(map[string]any)
	}
	values, err := tpl.Resolve(given, testEnv())
	if err != nil {
		return nil, err
	}
	return tpl.Expand(values, testEnv())
}

// TestVMTemplate is what az vm create sends: nulls, short dependencies in
// another casing, and a secret.
func TestVMTemplate(t *testing.T) {
	p, err := expand(t, `"parameters":{"adminPassword":{"type":"securestring","metadata":{"description":"Secure adminPassword"}}},"variables":{},"outputs":{},"resources":[
		{"type":"Microsoft.Network/publicIPAddresses","name":"vmPublicIP","apiVersion":"2022-01-01","location":"westus2","tags":{},"dependsOn":[],"properties":{"publicIPAllocationMethod":null},"sku":{"name":"Standard"}},
		{"type":"Microsoft.Network/networkInterfaces","name":"vmVMNic","apiVersion":"2015-06-15","location":"westus2","tags":{},"dependsOn":["Microsoft.Network/publicIpAddresses/vmPublicIP"],"properties":{}},
		{"apiVersion":"2022-11-01","type":"Microsoft.Compute/virtualMachines","name":"vm","location":"westus2","tags":{},"dependsOn":["Microsoft.Network/networkInterfaces/vmVMNic"],
		 "properties":{"osProfile":{"computerName":"vm","adminPassword":"[parameters('adminPassword')]"}}}]`, `{"adminPassword":{"value":"s3cret"}}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.Resources[0].DependsOn, p.Resources[1].DependsOn, p.Resources[2].DependsOn); got != "[] [0] [1]" {
		t.Error(got)
	}
	body, err := p.Body(2, nil)
	if err != nil || string(body) != `{"location":"westus2","properties":{"osProfile":{"adminPassword":"s3cret","computerName":"vm"}},"tags":{}}` {
		t.Error(string(body), err)
	}
	if b, err := p.Body(0, nil); err != nil || !strings.Contains(string(b), `"publicIPAllocationMethod":null`) {
		t.Error(string(b), err)
	}
	shown, _ := json.Marshal(p.t.Shown(p.values))
	if string(shown) != `{"adminPassword":{"type":"SecureString"}}` || len(p.t.Public(p.values)) != 0 {
		t.Error("the secret is shown:", string(shown))
	}
}

func TestLoopsConditionsChildren(t *testing.T) {
	p, err := expand(t, `"parameters":{"count":{"type":"int","defaultValue":2},"on":{"type":"bool","defaultValue":false}},"resources":[
		{"type":"A.B/nics","name":"[concat('nic', copyIndex())]","apiVersion":"1","copy":{"name":"niccopy","mode":"parallel","count":"[parameters('count')]"},"properties":{"i":"[copyIndex(1)]"}},
		{"type":"A.B/vms","name":"[concat('vm', copyIndex())]","apiVersion":"1","copy":{"name":"vmcopy","mode":"serial","batchSize":1,"count":2},"dependsOn":["niccopy"],
		 "properties":{"copy":[{"name":"disks","count":2,"input":{"lun":"[copyIndex('disks')]","vm":"[copyIndex('vmcopy')]"}}],"nic":"[reference(concat('nic', copyIndex())).name]"},
		 "resources":[{"type":"extensions","name":"ext","apiVersion":"1","properties":{}}]},
		{"condition":"[parameters('on')]","type":"A.B/nets","name":"n","apiVersion":"1"},
		{"type":"A.B/last","name":"l","apiVersion":"1","dependsOn":["n","[resourceId('A.B/vms','vm1')]"],"properties":{"keys":"[listKeys(resourceId('A.B/nics','nic0'),'2').keys[0]]"}}]`, "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range p.Resources {
		got = append(got, fmt.Sprint(r.Type[4:], " ", r.Name, " ", r.DependsOn, " ", r.Skipped))
	}
	want := []string{"nics nic0 [] false", "nics nic1 [] false", "vms vm0 [0 1] false", "vms/extensions vm0/ext [2] false", "vms vm1 [0 1 2] false", "vms/extensions vm1/ext [4] false", "nets n [] true", "last l [0 4 6] false"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	rt := &fakeRuntime{}
	body, err := p.Body(4, rt)
	if err != nil || string(body) != `{"properties":{"disks":[{"lun":0,"vm":1},{"lun":1,"vm":1}],"nic":"nic1"}}` {
		t.Error(string(body), err)
	}
	if body, err = p.Body(7, rt); err != nil || string(body) != `{"properties":{"keys":"listKeys"}}` {
		t.Error(string(body), err)
	}
	if p.Resources[3].ID != "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/A.B/vms/vm0/extensions/ext" {
		t.Error(p.Resources[3].ID)
	}
}

func TestOutputsAndReferences(t *testing.T) {
	p, err := expand(t, `"parameters":{"when":{"type":"string","defaultValue":"[utcNow('yyyy')]"},"id":{"type":"string","defaultValue":"[newGuid()]"},"both":{"type":"string","defaultValue":"[concat(parameters('when'), '-', parameters('id'))]"}},
		"resources":{"net":{"type":"A.B/nets","name":"n","apiVersion":"1"},"old":{"existing":true,"type":"A.B/nets","name":"o","apiVersion":"3"},"nic":{"type":"A.B/nics","name":"i","apiVersion":"1","dependsOn":["net"],"properties":{"x":"[reference('old').name]"}}},
		"outputs":{"name":{"type":"string","value":"[reference('net').name]"},"full":{"type":"string","value":"[reference(resourceId('A.B/other','q'),'2','Full').id]"},"both":{"type":"string","value":"[parameters('both')]"},
		"secret":{"type":"securestring","value":"hidden"},"no":{"condition":false,"type":"string","value":"[reference('missing')]"},"list":{"type":"array","copy":{"count":2,"input":"[copyIndex()]"}}}`, "")
	if err != nil {
		t.Fatal(err)
	}
	rt := &fakeRuntime{}
	out, err := p.Outputs(rt)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(out)
	const want = `{"both":{"type":"String","value":"2026-new"},"full":{"type":"String","value":"/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/A.B/other/q"},"list":{"type":"Array","value":[0,1]},"name":{"type":"String","value":"n"},"secret":{"type":"SecureString"}}`
	if string(text) != want {
		t.Errorf("%s\nwant %s", text, want)
	}
	if body, err := p.Body(1, rt); err != nil || !strings.Contains(string(body), `"x":"o"`) {
		t.Error(string(body), err)
	}
	if p.Resources[2].Deployed() || !p.Resources[0].Deployed() {
		t.Error("an existing resource is not deployed")
	}
	p, err = expand(t, `"resources":[],"outputs":{"x":{"type":"string","value":"[reference(resourceId('A.B/c','missing'),'1').x]"}}`, "")
	if err != nil {
		t.Fatal(err)
	}
	var me *millpond.Error
	if _, err = p.Outputs(rt); !errors.As(err, &me) || me.Code != "ResourceNotFound" {
		t.Error(err)
	}
}

func TestNestedDeployment(t *testing.T) {
	const inner = `{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0","parameters":{"p":{"type":"string"}},"resources":[],"outputs":{"o":{"type":"string","value":"[parameters('p')]"}}}`
	nested := func(scope, template string) string {
		return `"parameters":{"p":{"type":"string","defaultValue":"outer"}},"resources":[{"type":"Microsoft.Resources/deployments","apiVersion":"2021-04-01","name":"inner","properties":{"mode":"Incremental"` + scope + `,"parameters":{"p":{"value":"[parameters('p')]"}},"template":` + template + `}}]`
	}
	p, err := expand(t, nested(`,"expressionEvaluationOptions":{"scope":"inner"}`, inner), "")
	if err != nil {
		t.Fatal(err)
	}
	body, err := p.Body(0, nil)
	if err != nil || !strings.Contains(string(body), `"value":"[parameters('p')]"`) || !strings.Contains(string(body), `"p":{"value":"outer"}`) {
		t.Error(string(body), err)
	}
	if p, err = expand(t, nested("", inner), ""); err != nil {
		t.Fatal(err)
	}
	if body, err = p.Body(0, nil); err != nil || !strings.Contains(string(body), `"o":{"type":"string","value":"outer"}`) {
		t.Error(string(body), err)
	}
	if p, err = expand(t, nested("", strings.Replace(inner, "[parameters('p')]", "[reference('x').y]", 1)), ""); err != nil {
		t.Fatal(err)
	}
	if _, err = p.Body(0, nil); err == nil || !strings.Contains(err.Error(), "scope to inner") {
		t.Error(err)
	}
}

func TestTemplateErrors(t *testing.T) {
	resource := func(rest string) string {
		return `"resources":[{"type":"A.B/c","name":"n","apiVersion":"1"` + rest + `}]`
	}
	for _, c := range []struct{ body, parameters, want string }{
		{`"resources":[],"extra":1`, "", "Could not find member 'extra'"},
		{`"variables":{}`, "", "has no resources"},
		{`"resources":[1]`, "", "resources[0]"},
		{`"parameters":{"p":{"type":"text"}},"resources":[]`, "", "is not one of string"},
		{`"parameters":{"p":{"type":"int"}},"resources":[]`, "", "The value for the template parameter 'p' is not provided"},
		{`"parameters":{"p":{"type":"int"}},"resources":[]`, `{"p":{"value":"1"}}`, "Expected a value of type 'Int', but received a value of type 'String'"},
		{`"parameters":{"p":{"type":"int","minValue":2}},"resources":[]`, `{"p":{"value":1}}`, "is not from 2"},
		{`"parameters":{"p":{"type":"string","maxLength":2}},"resources":[]`, `{"p":{"value":"abc"}}`, "The length 3"},
		{`"parameters":{"p":{"type":"string","allowedValues":["a","b"]}},"resources":[]`, `{"p":{"value":"c"}}`, "allowed value(s): 'a,b'"},
		{`"parameters":{"p":{"type":"securestring","allowedValues":["a"]}},"resources":[]`, `{"p":{"value":"topsecret"}}`, "The value is not part"},
		{`"resources":[]`, `{"p":{"value":1}}`, "do not correspond to any parameters"},
		{`"parameters":{"p":{"type":"string"}},"resources":[]`, `{"p":{"reference":{"keyVault":{"id":"x"}}}}`, "key vault"},
		{resource(`,"properties":{"a":"[concat('x', nosuch('y'))]"}`), "", "resources[0].properties.a' is not valid: At column 13 of the expression: the template function 'nosuch' is not valid. Supported are: add,"},
		{resource(`,"properties":{"a":"[concat('x']"}`), "", "resources[0].properties.a"},
		{resource(`,"dependsOn":["A.B/none/x"]`), "", "is not defined in the template"},
		{resource(`,"condition":"[reference('n').x]"`), "", "not expected at this location"},
		{`"resources":[{"type":"A.B/c","name":"n/m","apiVersion":"1"}]`, "", "incorrect segment lengths"},
		{`"resources":[{"type":"A.B/c","name":"n"}]`, "", "has no apiVersion"},
		{`"resources":[{"type":"A.B/c","name":"n","apiVersion":"1"},{"type":"a.b/C","name":"N","apiVersion":"1"}]`, "", "defined multiple times"},
		{`"resources":[{"type":"A.B/c","name":"n","apiVersion":"1","dependsOn":["m"]},{"type":"A.B/c","name":"m","apiVersion":"1","dependsOn":["n"]}]`, "", "Circular dependency detected"},
		{resource(`,"copy":{"name":"c","count":801}`), "", "from 0 to 800"},
		{resource(`,"copy":{"name":"c","count":2}`), "", "defined multiple times"},
		{`"variables":{"a":"[variables('b')]","b":"[variables('a')]"},"resources":[{"type":"A.B/c","name":"[variables('a')]","apiVersion":"1"}]`, "", "is defined by itself"},
	} {
		_, err := expand(t, c.body, c.parameters)
		if err == nil {
			t.Errorf("%s is no error, want %q", c.body, c.want)
			continue
		}
		if me := millpond.AsError(err); me.Code != "InvalidTemplate" || !strings.Contains(me.Message, c.want) {
			t.Errorf("%s: %v, want %q", c.body, err, c.want)
		}
		if strings.Contains(err.Error(), "topsecret") {
			t.Error("a secret is in an error:", err)
		}
	}
}

func TestComments(t *testing.T) {
	v, err := DecodeJSON([]byte("{ // one\n \"a\": \"http://x /* no */\", /* two */ \"b\": 1 }"))
	if err != nil || fmt.Sprint(v) != "map[a:http://x /* no */ b:1]" {
		t.Error(v, err)
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add(head+`"parameters":{"p":{"type":"int","defaultValue":1}},"variables":{"v":"[parameters('p')]"},"resources":[{"type":"A.B/c","name":"[concat('n',variables('v'))]","apiVersion":"1","copy":{"name":"c","count":2},"dependsOn":[],"properties":{"x":"[copyIndex()]"}}],"outputs":{"o":{"type":"string","value":"[reference('n1').name]"}}}`, `{"p":{"value":2}}`)
	f.Add(head+`"resources":{"a":{"type":"A.B/c","name":"n","apiVersion":"1","resources":[{"type":"d","name":"m","apiVersion":"1"}]}}}`, `{}`)
	f.Add(`{`, `[`)
	f.Fuzz(func(t *testing.T, text, parameters string) {
		tpl, err := Parse([]byte(text))
		if err != nil {
			return
		}
		given, _ := DecodeJSON([]byte(parameters))
		m, _ := given.(map[string]any)
		values, err := tpl.Resolve(m, testEnv())
		if err != nil {
			return
		}
		p, err := tpl.Expand(values, testEnv())
		if err != nil {
			return
		}
		for i := range p.Resources {
			if p.Resources[i].ID == "" {
				t.Error("a resource without an id")
			}
			if b, err := p.Body(i, &fakeRuntime{}); err == nil && !json.Valid(b) {
				t.Errorf("body %s", b)
			}
		}
		if _, err := p.Outputs(&fakeRuntime{}); err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}
