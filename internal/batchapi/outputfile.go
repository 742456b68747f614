package batchapi

import (
	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
)

// outputFilesRule is what a task uploads when it has ended.
func outputFilesRule() *rule {
	return many(object(map[string]*rule{
		"filePattern": text(4096).needed(),
		"destination": object(map[string]*rule{"container": object(map[string]*rule{
			"containerUrl":      text(8192).needed(),
			"path":              text(1024),
			"identityReference": identityReferenceRule(),
			"uploadHeaders":     many(object(map[string]*rule{"name": text(256).needed(), "value": text(8192)}), 100),
		}).check(func(_ *body, m map[string]any, path string) error {
			u, _ := m["containerUrl"].(string)
			return webAddress(path+".containerUrl", u)
		}).needed()}).needed(),
		"uploadOptions": object(map[string]*rule{"uploadCondition": word("tasksuccess", "taskfailure", "taskcompletion")}).needed(),
	}), 1000)
}

func outputFiles(in []azbatch.OutputFile) []millpond.OutputFile {
	var out []millpond.OutputFile
	for _, f := range in {
		o := millpond.OutputFile{Pattern: text0(f.FilePattern), Condition: string(azbatch.OutputFileUploadConditionTaskCompletion)}
		if f.Destination != nil && f.Destination.Container != nil {
			c := f.Destination.Container
			o.ContainerURL, o.Path, o.Identity = text0(c.ContainerURL), text0(c.Path), identityID(c.IdentityReference)
			for _, h := range c.UploadHeaders {
				o.Headers = append(o.Headers, millpond.NameValue{Name: text0(h.Name), Value: text0(h.Value)})
			}
		}
		if f.UploadOptions != nil && f.UploadOptions.UploadCondition != nil {
			o.Condition = string(*f.UploadOptions.UploadCondition)
		}
		out = append(out, o)
	}
	return out
}

func outputFilesModel(in []millpond.OutputFile) []azbatch.OutputFile {
	var out []azbatch.OutputFile
	for _, f := range in {
		c := &azbatch.OutputFileBlobContainerDestination{ContainerURL: ptr(f.ContainerURL), Path: some(f.Path), IdentityReference: identityReference(f.Identity)}
		for _, h := range f.Headers {
			c.UploadHeaders = append(c.UploadHeaders, azbatch.HTTPHeader{Name: ptr(h.Name), Value: ptr(h.Value)})
		}
		out = append(out, azbatch.OutputFile{FilePattern: ptr(f.Pattern), Destination: &azbatch.OutputFileDestination{Container: c},
			UploadOptions: &azbatch.OutputFileUploadConfig{UploadCondition: ptr(azbatch.OutputFileUploadCondition(f.Condition))}})
	}
	return out
}
