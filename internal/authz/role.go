package authz

import (
	"strings"

	millpond "millpond.dev/millpond"
)

// GUIDs of the built-in roles, which are the same everywhere in Azure.
const (
	Owner                    = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	Contributor              = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	Reader                   = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	UserAccessAdministrator  = "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9"
	RBACAdministrator        = "f58310d9-a9f6-439a-9e8d-f62e7b41a168"
	VMContributor            = "9980e02c-c2be-4d73-94e8-173b1dc7cf3c"
	BatchAccountContributor  = "29fe4964-1e60-436b-bd3a-77fd4c178b3c"
	BatchAccountReader       = "11076f67-66f6-4be0-8f6b-f0609fd05cc9"
	BatchDataContributor     = "6aaa78f1-f7de-44ca-8722-c64a23943cae"
	BatchJobSubmitter        = "48e5e92e-a480-4e71-aa9c-2778f4c13781"
	GalleryArtifactPublisher = "85a2d0d9-2eba-4c9c-b355-11c2cc0788ab"
	GalleryImageReader       = "cf7c76d2-98a3-4358-a134-615aa78bf44d"
	GallerySharingAdmin      = "1ef6a3be-d0ac-425d-8c01-acb62866290b"
	BlobDataReader           = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"
	BlobDataContributor      = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
	BlobDataOwner            = "b7e6dc6d-f1e8-4753-8033-0f276bb0955b"
	StorageContributor       = "17d1049b-9a84-46fb-8f53-869881c3d3ab"
	IdentityOperator         = "f1a07417-d97a-45cb-824c-7a7467783830"
	IdentityContributor      = "e40ec5ca-96e0-45a2-b4ff-59039f2c2b59"
	DiskDataOperator         = "959f8984-c045-4866-89c7-12bf9737be2e"
)

// builtIn is the table of Azure's built-in roles that matter to Batch, galleries
// and disks, with the rights of arm-and-identity.md §6. The order is from the
// narrowest to the widest: a refusal proposes the first that would have done.
func builtIn() []millpond.RoleDefinition {
	role := func(id, name, description string, p millpond.Permission) millpond.RoleDefinition {
		return millpond.RoleDefinition{ID: id, Name: name, Description: description, BuiltIn: true,
			AssignableScopes: []string{"/"}, Permissions: []millpond.Permission{p}}
	}
	return []millpond.RoleDefinition{
		role(GalleryImageReader, "Compute Gallery Image Reader", "Reads the images of a gallery.", millpond.Permission{
			Actions: []string{"Microsoft.Compute/galleries/images/read", "Microsoft.Compute/galleries/images/versions/read"},
		}),
		role(BatchAccountReader, "Azure Batch Account Reader", "Sees everything in a Batch account, pools and jobs included.", millpond.Permission{
			Actions:     []string{"Microsoft.Batch/*/read", "Microsoft.Resources/subscriptions/resourceGroups/read"},
			DataActions: []string{"Microsoft.Batch/*/read"},
		}),
		role(BatchJobSubmitter, "Azure Batch Job Submitter", "Submits and manages jobs in a Batch account.", millpond.Permission{
			Actions: []string{"Microsoft.Batch/batchAccounts/applications/read", "Microsoft.Batch/batchAccounts/applications/versions/read",
				"Microsoft.Batch/batchAccounts/pools/read", "Microsoft.Resources/subscriptions/resourceGroups/read"},
			DataActions: []string{"Microsoft.Batch/batchAccounts/jobs/*", "Microsoft.Batch/batchAccounts/jobSchedules/*"},
		}),
		role(Reader, "Reader", "Sees all resources and changes none.", millpond.Permission{
			Actions: []string{"*/read"},
		}),
		role(BatchDataContributor, "Azure Batch Data Contributor", "Manages pools and jobs of a Batch account, not the account.", millpond.Permission{
			Actions: []string{"Microsoft.Batch/batchAccounts/read", "Microsoft.Batch/batchAccounts/applications/*",
				"Microsoft.Batch/batchAccounts/certificates/*", "Microsoft.Batch/batchAccounts/certificateOperationResults/*",
				"Microsoft.Batch/batchAccounts/pools/*", "Microsoft.Batch/batchAccounts/poolOperationResults/*", "Microsoft.Batch/locations/*/read",
				"Microsoft.Authorization/*/read", "Microsoft.Resources/deployments/*", "Microsoft.Resources/subscriptions/resourceGroups/read",
				"Microsoft.Insights/alertRules/*"},
			DataActions: []string{"Microsoft.Batch/batchAccounts/jobs/*", "Microsoft.Batch/batchAccounts/jobSchedules/*"},
		}),
		role(BatchAccountContributor, "Azure Batch Account Contributor", "Manages Batch accounts with all that is in them.", millpond.Permission{
			Actions: []string{"Microsoft.Authorization/*/read", "Microsoft.Batch/*", "Microsoft.Insights/alertRules/*",
				"Microsoft.Resources/deployments/*", "Microsoft.Resources/subscriptions/resourceGroups/read"},
			DataActions: []string{"Microsoft.Batch/*"},
		}),
		role(GallerySharingAdmin, "Compute Gallery Sharing Admin", "Shares a gallery with other subscriptions and tenants.", millpond.Permission{
			Actions: []string{"Microsoft.Compute/galleries/share/action"},
		}),
		role(BlobDataReader, "Storage Blob Data Reader", "Reads the blobs of storage accounts.", millpond.Permission{
			Actions:     []string{blobContainers + "/read", blobServices + "/generateUserDelegationKey/action"},
			DataActions: []string{blobContainers + "/blobs/read"},
		}),
		role(BlobDataContributor, "Storage Blob Data Contributor", "Reads, writes and deletes the containers and blobs of storage accounts.", millpond.Permission{
			Actions: []string{blobContainers + "/delete", blobContainers + "/read", blobContainers + "/write", blobServices + "/generateUserDelegationKey/action"},
			DataActions: []string{blobContainers + "/blobs/delete", blobContainers + "/blobs/read", blobContainers + "/blobs/write", blobContainers + "/blobs/move/action",
				blobContainers + "/blobs/add/action"},
		}),
		role(BlobDataOwner, "Storage Blob Data Owner", "Does everything with the containers and blobs of storage accounts.", millpond.Permission{
			Actions:     []string{blobContainers + "/*", blobServices + "/generateUserDelegationKey/action"},
			DataActions: []string{blobContainers + "/blobs/*"},
		}),
		role(StorageContributor, "Storage Account Contributor", "Manages storage accounts, their keys included.", millpond.Permission{
			Actions: []string{"Microsoft.Authorization/*/read", "Microsoft.Insights/alertRules/*", "Microsoft.Resources/deployments/*",
				"Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Storage/storageAccounts/*"},
		}),
		role(IdentityOperator, "Managed Identity Operator", "Sees user-assigned identities and assigns them.", millpond.Permission{
			// Azure writes */read and */assign/action, and lets the star stand for no segment.
			Actions: []string{"Microsoft.ManagedIdentity/userAssignedIdentities/*/read", "Microsoft.ManagedIdentity/userAssignedIdentities/*/assign/action",
				"Microsoft.ManagedIdentity/userAssignedIdentities/read", "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action", "Microsoft.Authorization/*/read",
				"Microsoft.Insights/alertRules/*", "Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Resources/deployments/*", "Microsoft.Support/*"},
		}),
		role(IdentityContributor, "Managed Identity Contributor", "Makes, changes and deletes user-assigned identities.", millpond.Permission{
			Actions: []string{"Microsoft.ManagedIdentity/userAssignedIdentities/read", "Microsoft.ManagedIdentity/userAssignedIdentities/write", "Microsoft.ManagedIdentity/userAssignedIdentities/delete",
				"Microsoft.Authorization/*/read", "Microsoft.Insights/alertRules/*", "Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Resources/deployments/*", "Microsoft.Support/*"},
		}),
		role(DiskDataOperator, "Data Operator for Managed Disks", "Uploads and downloads the content of disks and snapshots.", millpond.Permission{
			DataActions: []string{"Microsoft.Compute/disks/download/action", "Microsoft.Compute/disks/upload/action",
				"Microsoft.Compute/snapshots/download/action", "Microsoft.Compute/snapshots/upload/action"},
		}),
		role(GalleryArtifactPublisher, "Compute Gallery Artifacts Publisher", "Publishes images and versions in a gallery.", millpond.Permission{
			Actions: []string{"Microsoft.Compute/galleries/*", "Microsoft.Compute/images/*", "Microsoft.Compute/sharedGalleries/*",
				"Microsoft.Compute/communityGalleries/*", "Microsoft.Compute/locations/*", "Microsoft.Compute/virtualMachines/write",
				"Microsoft.Compute/disks/write", "Microsoft.Compute/disks/read", "Microsoft.Compute/snapshots/write", "Microsoft.Compute/snapshots/read",
				"Microsoft.Authorization/*/read", "Microsoft.Resources/deployments/*", "Microsoft.Resources/subscriptions/resourceGroups/read"},
			NotActions: []string{"Microsoft.Compute/galleries/share/action"},
		}),
		role(VMContributor, "Virtual Machine Contributor", "Manages virtual machines, not the networks and storage that they use.", millpond.Permission{
			Actions: []string{"Microsoft.Authorization/*/read", "Microsoft.Compute/availabilitySets/*", "Microsoft.Compute/locations/*",
				"Microsoft.Compute/virtualMachines/*", "Microsoft.Compute/virtualMachineScaleSets/*", "Microsoft.Compute/cloudServices/*",
				"Microsoft.Compute/disks/write", "Microsoft.Compute/disks/read", "Microsoft.Compute/disks/delete",
				"Microsoft.Network/*/read", "Microsoft.Network/*/join/action", "Microsoft.Network/networkInterfaces/*",
				"Microsoft.Resources/deployments/*", "Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Insights/alertRules/*"},
		}),
		role(Contributor, "Contributor", "Manages all resources, but grants no rights.", millpond.Permission{
			Actions: []string{"*"},
			NotActions: []string{"Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write", "Microsoft.Authorization/elevateAccess/Action",
				"Microsoft.Blueprint/blueprintAssignments/write", "Microsoft.Blueprint/blueprintAssignments/delete",
				"Microsoft.Compute/galleries/share/action", "Microsoft.Purview/consents/write", "Microsoft.Purview/consents/delete",
				"Microsoft.Resources/deploymentStacks/manageDenySetting/action", "Microsoft.Subscription/cancel/action", "Microsoft.Subscription/enable/action"},
		}),
		role(RBACAdministrator, "Role Based Access Control Administrator", "Assigns roles.", millpond.Permission{
			Actions: []string{"Microsoft.Authorization/roleAssignments/write", "Microsoft.Authorization/roleAssignments/delete", "*/read", "Microsoft.Support/*"},
		}),
		role(UserAccessAdministrator, "User Access Administrator", "Manages who has which rights.", millpond.Permission{
			Actions: []string{"*/read", "Microsoft.Authorization/*", "Microsoft.Support/*"},
		}),
		role(Owner, "Owner", "Manages everything, rights included.", millpond.Permission{
			Actions: []string{"*"},
		}),
	}
}

// role is a definition with its patterns in lower case.
type role struct {
	millpond.RoleDefinition
	permissions []millpond.Permission
}

func compileRole(d millpond.RoleDefinition) *role {
	r := &role{RoleDefinition: d}
	for _, p := range d.Permissions {
		r.permissions = append(r.permissions, millpond.Permission{Actions: lower(p.Actions), NotActions: lower(p.NotActions),
			DataActions: lower(p.DataActions), NotDataActions: lower(p.NotDataActions)})
	}
	return r
}

func lower(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strings.ToLower(s)
	}
	return out
}

// The two levels of blob storage that rights name.
const (
	blobServices   = "Microsoft.Storage/storageAccounts/blobServices"
	blobContainers = blobServices + "/containers"
)

// grants says whether the role gives an action (in lower case), as an action or
// as a data action. Azure keeps the two apart, but its Batch service honours
// either: Contributors, who have no data actions, have always run jobs. The
// service has no data that an action of the same name would not reach, so one
// rule serves all of it (arm-and-identity.md §6). Blobs are the exception: there
// Azure is strict, and an Owner reads none by a token without a data role.
func (r *role) grants(action string) bool {
	dataOnly := strings.HasPrefix(action, strings.ToLower(blobContainers)+"/blobs/")
	for _, p := range r.permissions {
		if !dataOnly && anyMatches(p.Actions, action) && !anyMatches(p.NotActions, action) {
			return true
		}
		if anyMatches(p.DataActions, action) && !anyMatches(p.NotDataActions, action) {
			return true
		}
	}
	return false
}
