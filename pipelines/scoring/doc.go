// Package scoring is the graph that serves: events in, features, scores and decisions out, dead
// letters aside.
//
// # Event time and delivery
//
// Event time is assigned once, where events are decoded. Delivery is at least once from source to
// sink; files and objects appear whole and once. Each admitted id changes each entity's state once,
// and every output carries the event's id.
package scoring
