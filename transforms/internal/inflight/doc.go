// Package inflight bounds the rows between a source and the end of a graph, within a process.
//
// A runner without back-pressure, such as Prism, takes all that a source gives, and holds in memory
// what later stages have not yet done. So the source counts rows in, the stage that ends with the sink
// counts them out, and the source waits while too many are under way. Where workers are processes of
// their own the runner has back-pressure of its own, and nothing is counted. What is counted is also timed:
// from when the source had taken a row in (a broker's time, where it tells one) to when it is out.
//
// A source that keeps no positions is also told which of its records have come to an end, see [Expect]:
// whoever takes an event off its way says so, with [Ended], or with [Stage] and [Published] where it can be
// read later. Ends are told by the event's id, since no batch stays what it was on its way; one process is
// taken to run one graph.
//
// # Non-obvious
//
// Rows that wait for the watermark take no credit, see [Await]. In the order of event time Prism holds back data
// behind a key's earliest timer: were these rows counted, reading would wait for them, and they for the watermark,
// which reading alone moves.
//
// Rows are out when their bundle has ended, sinks flushed: a DoFn can't see that, since FinishBundle
// runs from the first DoFn of a fused stage to the last. The worker's response to the runner is the
// place, and Beam's hooks show it (TestLanding).
//
// Two copies of an event can't be told apart where they end. So none of their records is acknowledged
// before both have ended: the letter of a duplicate must not stand for the first copy.
package inflight
