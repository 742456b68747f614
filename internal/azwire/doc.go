// Package azwire holds the conventions that Azure's APIs share on the wire: the
// route table, errors in the Resource Manager's and in Batch's shape,
// api-versions, ETags and conditions, OData filters, paging, long-running
// operations. It decodes and encodes; it calls no verb and holds no state.
//
// Edges, httpd and execproxy import it; verbs never do.
package azwire
