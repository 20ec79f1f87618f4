// Package webhook posts records to an HTTP endpoint: the sink of http:// and https:// addresses.
//
// The body of a request is a batch of records as JSON lines, content type application/x-ndjson, at most
// 500 records or 1 MiB. A user and password in the address become basic authentication; its query is
// sent, but for
//
//	batch=100        the most records of a request
//	timeout=10s      of a request (default 30s)
//	authorization=V  the header of that name, such as "Bearer%20..."
//
// # Delivery
//
// At least once: the receiver keeps what it must by the event's id and the model, which stand in each
// record.
//
// # Errors
//
// An answer of 2xx takes the batch. One of 4xx refuses it: a batch of several is sent again record by
// record, so that only the bad ones are refused. But 401, 403, 407, 408, 425 and 429 are no word about
// the record; they, 5xx and a network that fails are tried again, after 100 ms and then twice as long
// each time up to 30 s, or after what Retry-After says, until the context ends. 3xx is an error.
//
// # Non-obvious
//
// Redirects are not followed: a POST would become a GET.
package webhook
