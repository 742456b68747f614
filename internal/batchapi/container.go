package batchapi

import (
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/batch/azbatch"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/agent/proc"
)

const noIdentity = "No registry here takes tokens of managed identities: Azure's own is not served. Give a user name and a password."

func registryRule() *rule {
	return object(map[string]*rule{"registryServer": text(1024), "username": text(256), "password": text(8192), "identityReference": refuse(noIdentity)})
}

func containerPoolRule() *rule {
	return object(map[string]*rule{
		"type":                word("dockerCompatible", "criCompatible").needed(),
		"containerImageNames": many(text(1024), 100),
		"containerRegistries": many(registryRule(), 20),
	}).check(func(_ *body, m map[string]any, path string) error {
		names, _ := m["containerImageNames"].([]any)
		for _, n := range names {
			if s := n.(string); s == "" || strings.HasPrefix(s, "-") || strings.ContainsAny(s, " \t\n") {
				return invalid(path+".containerImageNames", s, "It is no name of a container image.")
			}
		}
		return nil
	})
}

// containerRule is a task's containerSettings.
func containerRule() *rule {
	return object(map[string]*rule{
		"imageName":           text(1024).needed(),
		"containerRunOptions": text(8192),
		"registry":            registryRule(),
		"workingDirectory":    word("taskWorkingDirectory", "containerImageDefault"),
		"containerHostBatchBindMounts": many(object(map[string]*rule{
			"source": word("Shared", "Startup", "VfsMounts", "Task", "JobPrep", "Applications").needed(), "isReadOnly": truth()}), 6),
	}).check(func(_ *body, m map[string]any, path string) error {
		image, _ := m["imageName"].(string)
		if strings.HasPrefix(image, "-") || strings.ContainsAny(image, " \t\n") {
			return invalid(path+".imageName", image, "It is no name of a container image.")
		}
		if o, _ := m["containerRunOptions"].(string); strings.TrimSpace(o) != "" {
			if _, err := proc.Split(o); err != nil {
				return invalid(path+".containerRunOptions", o, "It cannot be divided into words: "+err.Error()+".")
			}
		}
		return nil
	})
}

func containerPool(in *azbatch.ContainerConfiguration) *millpond.ContainerPool {
	if in == nil {
		return nil
	}
	c := &millpond.ContainerPool{Images: in.ContainerImageNames}
	if in.Type != nil {
		c.Type = string(*in.Type)
	}
	for _, r := range in.ContainerRegistries {
		c.Registries = append(c.Registries, registry(r))
	}
	return c
}

func registry(in azbatch.ContainerRegistryReference) millpond.Registry {
	return millpond.Registry{Server: text0(in.RegistryServer), User: text0(in.Username), Password: text0(in.Password)}
}

// containerSettings decodes those of a task. An empty list of mounts, which
// mounts nothing, is told from an absent one by the SDK's model.
func containerSettings(in *azbatch.TaskContainerSettings) *millpond.ContainerSettings {
	if in == nil {
		return nil
	}
	c := &millpond.ContainerSettings{Image: text0(in.ImageName), RunOptions: text0(in.ContainerRunOptions)}
	if in.Registry != nil {
		c.Registry = ptr(registry(*in.Registry))
	}
	if in.WorkingDirectory != nil {
		c.OwnDirectory = *in.WorkingDirectory == azbatch.ContainerWorkingDirectoryContainerImageDefault
	}
	if in.ContainerHostBatchBindMounts != nil {
		c.Binds = &[]millpond.ContainerBind{}
		for _, b := range in.ContainerHostBatchBindMounts {
			*c.Binds = append(*c.Binds, millpond.ContainerBind{Source: string(*b.Source), ReadOnly: truth0(b.IsReadOnly)})
		}
	}
	return c
}

func registryModel(r millpond.Registry) azbatch.ContainerRegistryReference {
	return azbatch.ContainerRegistryReference{RegistryServer: some(r.Server), Username: some(r.User)}
}

func containerPoolModel(c *millpond.ContainerPool) *azbatch.ContainerConfiguration {
	if c == nil {
		return nil
	}
	m := &azbatch.ContainerConfiguration{Type: ptr(azbatch.ContainerType(c.Type)), ContainerImageNames: c.Images}
	for _, r := range c.Registries {
		m.ContainerRegistries = append(m.ContainerRegistries, registryModel(r))
	}
	return m
}

func containerModel(c *millpond.ContainerSettings) *azbatch.TaskContainerSettings {
	if c == nil {
		return nil
	}
	m := &azbatch.TaskContainerSettings{ImageName: ptr(c.Image), ContainerRunOptions: some(c.RunOptions), WorkingDirectory: ptr(azbatch.ContainerWorkingDirectoryTaskWorkingDirectory)}
	if c.OwnDirectory {
		m.WorkingDirectory = ptr(azbatch.ContainerWorkingDirectoryContainerImageDefault)
	}
	if c.Registry != nil {
		m.Registry = ptr(registryModel(*c.Registry))
	}
	if c.Binds != nil {
		m.ContainerHostBatchBindMounts = []azbatch.ContainerHostBindMountEntry{}
		for _, b := range *c.Binds {
			m.ContainerHostBatchBindMounts = append(m.ContainerHostBatchBindMounts, azbatch.ContainerHostBindMountEntry{Source: ptr(azbatch.ContainerHostDataPath(b.Source)), IsReadOnly: ptr(b.ReadOnly)})
		}
	}
	return m
}

func containerInfoModel(c *millpond.ContainerInfo) *azbatch.TaskContainerExecutionInfo {
	if c == nil {
		return nil
	}
	return &azbatch.TaskContainerExecutionInfo{ContainerID: some(c.ID), State: some(c.State), Error: some(c.Error)}
}
