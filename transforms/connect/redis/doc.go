// Package redis keeps the newest record of each key in Redis: the latest scores, and features for
// services that read them online. It is the sink of redis:// and rediss:// (TLS) addresses:
//
//	redis://user:password@host:6379/0?prefix=scores:
//	redis://host:6379/0?prefix=features:&key=CUSTOMER_ID&ttl=720h
//
// # Keys
//
// Each record is a hash named by prefix and key:
//
//	prefix  what stands before the key (default "millrace:")
//	key     the field of the record that names what it is about, such as an entity; by default the
//	        record's own key, "<event id>:<model>"
//	ttl     after which a key that nothing was written to goes; by default it stays
//
// with the fields
//
//	value   the record, JSON
//	time    its event time, microseconds since 1970, 20 digits that sort as text
//	id      the record's own key
//
// So `HGET features:7 value` is what is known of customer 7.
//
// # Delivery
//
// A record replaces another only if its (time, id) is greater, compared in Redis by a script: neither
// a replay nor a bundle that is sent twice nor an event that comes late overwrites what is newer. Ids
// are compared as bytes. Records are pipelined, 512 at a time. What Redis has acknowledged outlives it
// as far as its own settings say (appendonly, appendfsync).
//
// # Errors
//
// A Redis that is gone, is loading, is read-only or out of memory is a fault of the bundle. A record
// without the field that key names is refused.
//
// # Non-obvious
//
// Every pipeline begins with the script, since a Redis that was restarted has forgotten it. The address
// names one server: a cluster's redirections are not followed.
package redis
