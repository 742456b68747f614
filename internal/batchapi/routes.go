package batchapi

import (
	"context"
	"net/http"

	millpond "millpond.dev/millpond"
	"millpond.dev/millpond/internal/azwire"
)

// Rights that routes need (batch-data-plane.md §5.2). Nodes count as their
// pool, tasks and files as their job: Azure has no rights of their own for them.
const (
	actPoolsRead   = "Microsoft.Batch/batchAccounts/pools/read"
	actPoolsWrite  = "Microsoft.Batch/batchAccounts/pools/write"
	actPoolsDelete = "Microsoft.Batch/batchAccounts/pools/delete"
	actJobsRead    = "Microsoft.Batch/batchAccounts/jobs/read"
	actJobsWrite   = "Microsoft.Batch/batchAccounts/jobs/write"
	actJobsDelete  = "Microsoft.Batch/batchAccounts/jobs/delete"
	actSchedRead   = "Microsoft.Batch/batchAccounts/jobSchedules/read"
	actSchedWrite  = "Microsoft.Batch/batchAccounts/jobSchedules/write"
	actSchedDelete = "Microsoft.Batch/batchAccounts/jobSchedules/delete"
	actAppsRead    = "Microsoft.Batch/batchAccounts/applications/read"
	actCertsRead   = "Microsoft.Batch/batchAccounts/certificates/read"
	actCertsWrite  = "Microsoft.Batch/batchAccounts/certificates/write"
	actCertsDelete = "Microsoft.Batch/batchAccounts/certificates/delete"
)

// Paths that many operations share.
const (
	pathPool     = "/pools/{poolId}"
	pathNode     = pathPool + "/nodes/{nodeId}"
	pathJob      = "/jobs/{jobId}"
	pathTask     = pathJob + "/tasks/{taskId}"
	pathSchedule = "/jobschedules/{jobScheduleId}"
	pathHook     = "/millpond/webhooks/{webhookId}"
	pathCert     = "/certificates({key})"
)

// Why operations are refused.
const (
	noRemoteDesktop = "Remote Desktop is for Windows, and nodes run Linux. Use remoteloginsettings, which has the address and port for ssh."
	noCertificates  = "Certificates left the service with api-version 2025-06-01. Use an earlier one, such as 2024-07-01.20.0, or put secrets on a node with a resource file or in the image."
)

// table is every operation of the service (batch-data-plane.md §1), in its
// order. The paths keep the service's case; matching ignores it.
func (e *Edge) table() []azwire.Route {
	return []azwire.Route{
		{Name: "Pool_Add", Method: "POST", Path: "/pools", Action: actPoolsWrite, Handle: e.with(e.addPool)},
		{Name: "Pool_List", Method: "GET", Path: "/pools", Action: actPoolsRead, Handle: e.with(e.listPools)},
		{Name: "Pool_Get", Method: "GET", Path: pathPool, Action: actPoolsRead, Handle: e.with(e.getPool)},
		{Name: "Pool_Exists", Method: "HEAD", Path: pathPool, Action: actPoolsRead, Handle: e.with(e.getPool)},
		{Name: "Pool_Patch", Method: "PATCH", Path: pathPool, Action: actPoolsWrite, Handle: e.with(e.patchPool)},
		{Name: "Pool_UpdateProperties", Method: "POST", Path: pathPool + "/updateproperties", Action: actPoolsWrite, Handle: e.with(e.replacePool)},
		{Name: "Pool_Delete", Method: "DELETE", Path: pathPool, Action: actPoolsDelete, Handle: e.with(e.deletePool)},
		{Name: "Pool_EnableAutoScale", Method: "POST", Path: pathPool + "/enableautoscale", Action: actPoolsWrite, Handle: e.with(e.enableAutoScale)},
		{Name: "Pool_DisableAutoScale", Method: "POST", Path: pathPool + "/disableautoscale", Action: actPoolsWrite, Handle: e.with(e.disableAutoScale)},
		{Name: "Pool_EvaluateAutoScale", Method: "POST", Path: pathPool + "/evaluateautoscale", Action: actPoolsWrite, Handle: e.with(e.evaluateAutoScale)},
		{Name: "Pool_Resize", Method: "POST", Path: pathPool + "/resize", Action: actPoolsWrite, Handle: e.with(e.resizePool)},
		{Name: "Pool_StopResize", Method: "POST", Path: pathPool + "/stopresize", Action: actPoolsWrite, Handle: e.with(e.stopResize)},
		{Name: "Pool_RemoveNodes", Method: "POST", Path: pathPool + "/removenodes", Action: actPoolsWrite, Handle: e.with(e.removeNodes)},
		{Name: "Account_ListSupportedImages", Method: "GET", Path: "/supportedimages", Action: actPoolsRead, Handle: e.with(e.listSupportedImages)},
		{Name: "Account_ListNodeAgentSkus", Method: "GET", Path: "/nodeagentskus", Action: actPoolsRead, Handle: e.with(e.listNodeAgents)},
		{Name: "Account_ListPoolNodeCounts", Method: "GET", Path: "/nodecounts", Action: actPoolsRead, Handle: e.with(e.listNodeCounts)},
		{Name: "Pool_ListUsageMetrics", Method: "GET", Path: "/poolusagemetrics", Action: actPoolsRead, Handle: e.with(e.listUsageMetrics)},
		{Name: "Pool_GetAllLifetimeStatistics", Method: "GET", Path: "/lifetimepoolstats", Action: actPoolsRead, Handle: e.with(e.lifetimePools)},

		{Name: "ComputeNode_List", Method: "GET", Path: pathPool + "/nodes", Action: actPoolsRead, Handle: e.with(e.listNodes)},
		{Name: "ComputeNode_Get", Method: "GET", Path: pathNode, Action: actPoolsRead, Handle: e.with(e.getNode)},
		{Name: "ComputeNode_AddUser", Method: "POST", Path: pathNode + "/users", Action: actPoolsWrite, Handle: e.with(e.addUser)},
		{Name: "ComputeNode_UpdateUser", Method: "PUT", Path: pathNode + "/users/{userName}", Action: actPoolsWrite, Handle: e.with(e.updateUser)},
		{Name: "ComputeNode_DeleteUser", Method: "DELETE", Path: pathNode + "/users/{userName}", Action: actPoolsWrite, Handle: e.with(e.deleteUser)},
		{Name: "ComputeNode_Reboot", Method: "POST", Path: pathNode + "/reboot", Action: actPoolsWrite, Handle: e.with(e.rebootNode)},
		{Name: "ComputeNode_Reimage", Method: "POST", Path: pathNode + "/reimage", Action: actPoolsWrite, Handle: e.with(e.reimageNode)},
		{Name: "ComputeNode_Deallocate", Method: "POST", Path: pathNode + "/deallocate", Action: actPoolsWrite, Handle: e.with(e.deallocateNode)},
		{Name: "ComputeNode_Start", Method: "POST", Path: pathNode + "/start", Action: actPoolsWrite, Handle: e.with(e.startNode)},
		{Name: "ComputeNode_DisableScheduling", Method: "POST", Path: pathNode + "/disablescheduling", Action: actPoolsWrite, Handle: e.with(e.disableScheduling)},
		{Name: "ComputeNode_EnableScheduling", Method: "POST", Path: pathNode + "/enablescheduling", Action: actPoolsWrite, Handle: e.with(e.enableScheduling)},
		{Name: "ComputeNode_GetRemoteLoginSettings", Method: "GET", Path: pathNode + "/remoteloginsettings", Action: actPoolsRead, Handle: e.with(e.remoteLogin)},
		{Name: "ComputeNode_GetRemoteDesktop", Method: "GET", Path: pathNode + "/rdp", Action: actPoolsRead, Refused: noRemoteDesktop},
		{Name: "ComputeNode_UploadBatchServiceLogs", Method: "POST", Path: pathNode + "/uploadbatchservicelogs", Action: actPoolsWrite, Handle: e.with(e.uploadLogs)},
		{Name: "ComputeNodeExtension_List", Method: "GET", Path: pathNode + "/extensions", Action: actPoolsRead, Handle: e.with(e.listExtensions)},
		{Name: "ComputeNodeExtension_Get", Method: "GET", Path: pathNode + "/extensions/{extensionName}", Action: actPoolsRead, Handle: e.with(e.getExtension)},

		{Name: "File_ListFromTask", Method: "GET", Path: pathTask + "/files", Action: actJobsRead, Handle: e.with(e.listTaskFiles)},
		{Name: "File_GetFromTask", Method: "GET", Path: pathTask + "/files/{filePath...}", Action: actJobsRead, Handle: e.with(e.getTaskFile)},
		{Name: "File_GetPropertiesFromTask", Method: "HEAD", Path: pathTask + "/files/{filePath...}", Action: actJobsRead, Handle: e.with(e.getTaskFile)},
		{Name: "File_DeleteFromTask", Method: "DELETE", Path: pathTask + "/files/{filePath...}", Action: actJobsWrite, Handle: e.with(e.deleteTaskFile)},
		{Name: "File_ListFromComputeNode", Method: "GET", Path: pathNode + "/files", Action: actPoolsRead, Handle: e.with(e.listNodeFiles)},
		{Name: "File_GetFromComputeNode", Method: "GET", Path: pathNode + "/files/{filePath...}", Action: actPoolsRead, Handle: e.with(e.getNodeFile)},
		{Name: "File_GetPropertiesFromComputeNode", Method: "HEAD", Path: pathNode + "/files/{filePath...}", Action: actPoolsRead, Handle: e.with(e.getNodeFile)},
		{Name: "File_DeleteFromComputeNode", Method: "DELETE", Path: pathNode + "/files/{filePath...}", Action: actPoolsWrite, Handle: e.with(e.deleteNodeFile)},

		{Name: "Job_Add", Method: "POST", Path: "/jobs", Action: actJobsWrite, Handle: e.with(e.addJob)},
		{Name: "Job_List", Method: "GET", Path: "/jobs", Action: actJobsRead, Handle: e.with(e.listJobs)},
		{Name: "Job_ListFromJobSchedule", Method: "GET", Path: pathSchedule + "/jobs", Action: actJobsRead, Handle: e.with(e.listScheduleJobs)},
		{Name: "Job_Get", Method: "GET", Path: pathJob, Action: actJobsRead, Handle: e.with(e.getJob)},
		{Name: "Job_Patch", Method: "PATCH", Path: pathJob, Action: actJobsWrite, Handle: e.with(e.patchJob)},
		{Name: "Job_Update", Method: "PUT", Path: pathJob, Action: actJobsWrite, Handle: e.with(e.updateJob)},
		{Name: "Job_Delete", Method: "DELETE", Path: pathJob, Action: actJobsDelete, Handle: e.with(e.deleteJob)},
		{Name: "Job_Disable", Method: "POST", Path: pathJob + "/disable", Action: actJobsWrite, Handle: e.with(e.disableJob)},
		{Name: "Job_Enable", Method: "POST", Path: pathJob + "/enable", Action: actJobsWrite, Handle: e.with(e.enableJob)},
		{Name: "Job_Terminate", Method: "POST", Path: pathJob + "/terminate", Action: actJobsWrite, Handle: e.with(e.terminateJob)},
		{Name: "Job_GetTaskCounts", Method: "GET", Path: pathJob + "/taskcounts", Action: actJobsRead, Handle: e.with(e.taskCounts)},
		{Name: "Job_ListPreparationAndReleaseTaskStatus", Method: "GET", Path: pathJob + "/jobpreparationandreleasetaskstatus", Action: actJobsRead, Handle: e.with(e.listPreparation)},
		{Name: "Job_GetAllLifetimeStatistics", Method: "GET", Path: "/lifetimejobstats", Action: actJobsRead, Handle: e.with(e.lifetimeJobs)},

		{Name: "JobSchedule_Add", Method: "POST", Path: "/jobschedules", Action: actSchedWrite, Handle: e.with(e.addSchedule)},
		{Name: "JobSchedule_List", Method: "GET", Path: "/jobschedules", Action: actSchedRead, Handle: e.with(e.listSchedules)},
		{Name: "JobSchedule_Get", Method: "GET", Path: pathSchedule, Action: actSchedRead, Handle: e.with(e.getSchedule)},
		{Name: "JobSchedule_Exists", Method: "HEAD", Path: pathSchedule, Action: actSchedRead, Handle: e.with(e.getSchedule)},
		{Name: "JobSchedule_Patch", Method: "PATCH", Path: pathSchedule, Action: actSchedWrite, Handle: e.with(e.patchSchedule)},
		{Name: "JobSchedule_Update", Method: "PUT", Path: pathSchedule, Action: actSchedWrite, Handle: e.with(e.updateSchedule)},
		{Name: "JobSchedule_Delete", Method: "DELETE", Path: pathSchedule, Action: actSchedDelete, Handle: e.with(e.deleteSchedule)},
		{Name: "JobSchedule_Disable", Method: "POST", Path: pathSchedule + "/disable", Action: actSchedWrite, Handle: e.with(e.disableSchedule)},
		{Name: "JobSchedule_Enable", Method: "POST", Path: pathSchedule + "/enable", Action: actSchedWrite, Handle: e.with(e.enableSchedule)},
		{Name: "JobSchedule_Terminate", Method: "POST", Path: pathSchedule + "/terminate", Action: actSchedWrite, Handle: e.with(e.terminateSchedule)},

		{Name: "Task_Add", Method: "POST", Path: pathJob + "/tasks", Action: actJobsWrite, Handle: e.with(e.addTask)},
		{Name: "Task_AddCollection", Method: "POST", Path: pathJob + "/addtaskcollection", Action: actJobsWrite, Handle: e.with(e.addTasks)},
		{Name: "Task_List", Method: "GET", Path: pathJob + "/tasks", Action: actJobsRead, Handle: e.with(e.listTasks)},
		{Name: "Task_Get", Method: "GET", Path: pathTask, Action: actJobsRead, Handle: e.with(e.getTask)},
		{Name: "Task_Update", Method: "PUT", Path: pathTask, Action: actJobsWrite, Handle: e.with(e.updateTask)},
		{Name: "Task_Delete", Method: "DELETE", Path: pathTask, Action: actJobsWrite, Handle: e.with(e.deleteTask)},
		{Name: "Task_Terminate", Method: "POST", Path: pathTask + "/terminate", Action: actJobsWrite, Handle: e.with(e.terminateTask)},
		{Name: "Task_Reactivate", Method: "POST", Path: pathTask + "/reactivate", Action: actJobsWrite, Handle: e.with(e.reactivateTask)},
		{Name: "Task_ListSubtasks", Method: "GET", Path: pathTask + "/subtasksinfo", Action: actJobsRead, Handle: e.with(e.listSubtasks)},

		{Name: "Application_List", Method: "GET", Path: "/applications", Action: actAppsRead, Handle: e.with(e.listApplications)},
		{Name: "Application_Get", Method: "GET", Path: "/applications/{applicationId}", Action: actAppsRead, Handle: e.with(e.getApplication)},

		{Name: "Certificate_Add", Method: "POST", Path: "/certificates", Action: actCertsWrite, Until: certificatesEnd, EndedWhy: noCertificates, Handle: e.with(e.addCertificate)},
		{Name: "Certificate_List", Method: "GET", Path: "/certificates", Action: actCertsRead, Until: certificatesEnd, EndedWhy: noCertificates, Handle: e.with(e.listCertificates)},
		{Name: "Certificate_Get", Method: "GET", Path: pathCert, Action: actCertsRead, Until: certificatesEnd, EndedWhy: noCertificates, Handle: e.with(e.getCertificate)},
		{Name: "Certificate_Delete", Method: "DELETE", Path: pathCert, Action: actCertsDelete, Until: certificatesEnd, EndedWhy: noCertificates, Handle: e.with(e.deleteCertificate)},
		{Name: "Certificate_CancelDelete", Method: "POST", Path: pathCert + "/canceldelete", Action: actCertsWrite, Until: certificatesEnd, EndedWhy: noCertificates, Handle: e.with(e.cancelCertificateDelete)},

		// What Azure does not have is below /millpond.
		{Name: "Millpond_ListEvents", Method: "GET", Path: "/millpond/events", Action: actJobsRead, Handle: e.with(e.getEvents)},
		{Name: "Millpond_PutWebhook", Method: "PUT", Path: pathHook, Action: actAccountWrite, Handle: e.with(e.putWebhook)},
		{Name: "Millpond_ListWebhooks", Method: "GET", Path: "/millpond/webhooks", Action: actAccountRead, Handle: e.with(e.listWebhooks)},
		{Name: "Millpond_GetWebhook", Method: "GET", Path: pathHook, Action: actAccountRead, Handle: e.with(e.getWebhook)},
		{Name: "Millpond_EnableWebhook", Method: "POST", Path: pathHook + "/enable", Action: actAccountWrite, Handle: e.with(e.enableWebhook)},
		{Name: "Millpond_DeleteWebhook", Method: "DELETE", Path: pathHook, Action: actAccountWrite, Handle: e.with(e.deleteWebhook)},
		{Name: "Millpond_ListAutoScaleRuns", Method: "GET", Path: pathPool + "/millpond/autoscaleruns", Action: actPoolsRead, Handle: e.with(e.listScaleRuns)},
		{Name: "Millpond_ListUsage", Method: "GET", Path: pathPool + "/millpond/usage", Action: actPoolsRead, Handle: e.with(e.listUsage)},
		{Name: "Millpond_PreemptNode", Method: "POST", Path: pathNode + "/millpond/preempt", Action: actPoolsWrite, Handle: e.with(e.preemptNode)},
		{Name: "Millpond_ListNodeLogs", Method: "GET", Path: pathNode + "/millpond/logs", Action: actPoolsRead, Handle: e.with(e.listNodeLogs)},
		{Name: "Millpond_GetNodeLog", Method: "GET", Path: pathNode + "/millpond/logs/{logName}", Action: actPoolsRead, Handle: e.with(e.getNodeLog)},
		{Name: "Millpond_ListPoolEvents", Method: "GET", Path: "/millpond/poolevents", Action: actPoolsRead, Handle: e.with(e.getPoolEvents)},
	}
}

// request is a routed request for one account.
type request struct {
	*azwire.Request
	acct millpond.BatchAccount
}

type accountKey struct{}

// with hands a handler the account that serve found.
func (e *Edge) with(h func(w http.ResponseWriter, r *request) error) func(http.ResponseWriter, *azwire.Request) error {
	return func(w http.ResponseWriter, r *azwire.Request) error {
		acct, _ := r.Context().Value(accountKey{}).(millpond.BatchAccount)
		return h(w, &request{r, acct})
	}
}

// withAccount puts the account where with finds it.
func withAccount(r *http.Request, acct millpond.BatchAccount) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), accountKey{}, acct))
}
